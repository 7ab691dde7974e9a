import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from narrowcast_gateway.services import create_http_client
from narrowcast_gateway.settings import GatewaySettings
from narrowcast_gateway.training.served import ask_served


class Answering(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"accepted_fingerprints": ["f"]}')

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that answers once; Docker hands the proxy of the house to every container."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        server.timeout = 10
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        yield f"http://127.0.0.1:{server.server_port}"
        answering.join()


async def test_impressions_go_through_no_proxy_of_the_environment(url: str) -> None:
    async with create_http_client(GatewaySettings()) as client:
        answer = await client.post(f"{url}/v1/chat/completions")
    assert answer.status_code == 204


def test_nor_is_a_server_asked_through_one_what_it_serves(url: str) -> None:
    assert ask_served(url).fingerprints == ("f",)
