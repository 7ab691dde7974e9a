import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from narrowcast_gateway.services import create_http_client
from narrowcast_gateway.settings import GatewaySettings


class Answering(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


async def test_impressions_go_through_no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker hands the proxy of the house to every container."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.handle_request).start()
        async with create_http_client(GatewaySettings()) as client:
            answer = await client.post(f"http://127.0.0.1:{server.server_port}/v1/chat/completions")
    assert answer.status_code == 204
