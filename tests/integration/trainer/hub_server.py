"""A server that speaks as much of a Hugging Face hub's API as the real client needs to push."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What the server has been told."""

    url: str = ""
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    """Paths of POST requests."""
    writable: bool = True
    """Whether the token may create and write; it may read everything."""
    status: int | None = None
    """Answers everything with it."""
    commit_status: int | None = None
    """Answers commits with it."""


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

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").partition("?")[0]
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._answer({"error": "Repository not found"}, 404)
            return
        self._answer({"id": name, "private": repository.get("visibility") == "private"})

    def do_POST(self) -> None:
        body = self._body()
        if self.hub.status is not None:
            self._answer({"error": "no"}, self.hub.status)
            return
        self.hub.asked.append(self.path)
        if not self.hub.writable:
            self._answer({"error": "this token may only read"}, 403)
            return
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            there = name in self.hub.repositories
            self.hub.repositories.setdefault(name, asked)
            answer = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
            self._answer(answer, 409 if there else 200)
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
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
        elif "/commit/" in self.path and self.hub.commit_status is not None:
            self._answer({"error": "not now"}, self.hub.commit_status)
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


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run one on a free port."""
    told = Hub()
    handler = type("Handler", (_Handler,), {"hub": told})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
