"""What a server that refuses is taken to say. Codes that only a full MinIO gives, from a small real HTTP server."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from narrowcast.errors import Outage, Unavailable
from narrowcast.settings import StorageSettings
from narrowcast.storage import Bucket, Storage


class _Refusing(BaseHTTPRequestHandler):
    status, body = 0, b""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as made:
        made.asked = 0  # type: ignore[attr-defined]
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.mark.parametrize(
    ("status", "xml_code", "message", "code"),
    [
        (
            507,
            "XMinioStorageFull",
            "Storage backend has reached its minimum free drive threshold.",
            "storage_full",
        ),
        (500, "InternalError", "We encountered an internal error, please try again.", "storage_unavailable"),
        (403, "AccessDenied", "Access Denied.", "storage_refused"),
    ],
)
def test_a_refused_write_says_why(
    server: ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    xml_code: str,
    message: str,
    code: str,
) -> None:
    body = f'<?xml version="1.0"?><Error><Code>{xml_code}</Code><Message>{message}</Message></Error>'
    monkeypatch.setattr(_Refusing, "status", status)
    monkeypatch.setattr(_Refusing, "body", body.encode())
    settings = {"endpoint": f"127.0.0.1:{server.server_port}", "secret_key": "test-secret"}
    bucket: Bucket = Storage(StorageSettings.model_validate(settings)).models
    with pytest.raises(Unavailable) as refused:
        bucket.put("adapters/x", b"x")
    assert refused.value.code == code
    assert isinstance(refused.value, Outage) is (code == "storage_unavailable")
    assert ("space" in refused.value.message) is (status != 403), (
        "a disk that is full is the likeliest reason"
    )
    assert server.asked == (3 if status == 500 else 1), "only what may pass by itself is tried again"  # type: ignore[attr-defined]
