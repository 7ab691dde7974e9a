"""Pushing to a hub, by the real client, to a server that speaks as much of the hub's API as that needs."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.exports import HubDestination
from narrowcast_trainer.export.hub import HubOrder, check_destination, push
from narrowcast_trainer.settings import HubSettings

TOKEN = "hf_secret_of_the_site"
SMALL = b"FROM ./model.gguf\n"
LARGE = bytes(range(256)) * 100


@dataclass
class Hub:
    """What the server has been told."""

    url: str = ""
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    status: int | None = None
    """Answers everything with it."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        self.hub.objects[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.hub.status is not None:
            self._answer({"error": "no"}, self.hub.status)
            return
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            self.hub.repositories[name] = asked
            self._answer({"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["size"] > 1000 else "regular",
                            "shouldIgnore": False,
                        }
                        for file in files
                    ]
                }
            )
        elif self.path.endswith("/info/lfs/objects/batch"):
            upload = {
                entry["oid"]: {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}}
                for entry in json.loads(body)["objects"]
            }
            objects = [entry | {"actions": upload[entry["oid"]]} for entry in json.loads(body)["objects"]]
            self._answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self._commit(body)
            self._answer(
                {
                    "success": True,
                    "commitOid": "0" * 40,
                    "commitUrl": f"{self.hub.url}/clinic/reports/commit/{0:040}",
                }
            )
        else:
            self._answer({"error": f"no such endpoint {self.path}"}, 404)

    def _commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[value["path"]] = self.hub.objects[value["oid"]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    told = Hub()
    handler = type("Handler", (_Handler,), {"hub": told})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", told.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as in a job's process
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


def order(folder: Path | None, *, private: bool = True) -> HubOrder:
    destination = HubDestination(repo_id="clinic/reports", private=private)
    return HubOrder(destination=destination, token=SecretStr(TOKEN), folder=folder, message="reports as gguf")


def test_an_export_arrives_in_a_private_repository(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_bytes(SMALL)
    (tmp_path / "model.gguf").write_bytes(LARGE)
    assert push(order(tmp_path)) == f"{hub.url}/clinic/reports"
    assert hub.files == {"Modelfile": SMALL, "model.gguf": LARGE}
    (created,) = hub.repositories.values()
    assert created.get("private") is True or created.get("visibility") == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_repository_is_tried_before_the_work(hub: Hub) -> None:
    push(order(None))
    assert list(hub.repositories) == ["clinic/reports"]
    assert hub.files == {}


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(401, JobFailed, "hub_refused"), (403, JobFailed, "hub_refused"), (500, Unavailable, "hub_unavailable")],
)
def test_a_hub_that_says_no(hub: Hub, status: int, kind: type[JobFailed | Unavailable], code: str) -> None:
    hub.status = status
    with pytest.raises(kind) as caught:
        push(order(None))
    assert caught.value.code == code
    assert str(status) in caught.value.message
    assert TOKEN not in caught.value.message


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable) as caught:
        push(order(None))
    assert caught.value.code == "hub_unavailable"


def test_what_the_site_allows() -> None:
    allowed = HubSettings(token=SecretStr(TOKEN), owners=("clinic",))
    destination = HubDestination(repo_id="clinic/reports")
    assert check_destination(destination, allowed).get_secret_value() == TOKEN
    public = destination.model_copy(update={"private": False})
    for refused, settings in (
        (destination, HubSettings()),
        (destination, HubSettings(token=SecretStr("  "))),
        (HubDestination(repo_id="another/reports"), allowed),
        (public, allowed),
    ):
        with pytest.raises(JobFailed) as caught:
            check_destination(refused, settings)
        assert TOKEN not in caught.value.message
    assert check_destination(public, allowed.model_copy(update={"allow_public": True}))


def test_the_token_is_in_no_repr() -> None:
    settings = HubSettings(token=SecretStr(TOKEN))
    assert not re.search(TOKEN, f"{settings} {settings!r} {order(None)!r}")
