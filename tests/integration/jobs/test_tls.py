"""Redis behind TLS: who shows a certificate that nobody vouches for gets no password."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import trustme
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from narrowcast.connections import connect
from narrowcast.jobs.queue import create_celery
from narrowcast.settings import RedisSettings, Settings


@dataclass
class TlsProxy:
    """Ends TLS in front of a Redis server, as a managed one does; counts the bytes that came through."""

    port: int
    received: list[int] = field(default_factory=list)

    def url(self, settings: RedisSettings) -> str:
        user = urlsplit(settings.dsn).netloc.rpartition("@")[0]
        return f"rediss://{user}@localhost:{self.port}/0"


def _copy(source: Any, target: Any, count: Callable[[int], None] = lambda _: None) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            count(len(data))
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["localhost"])
def proxy(
    request: pytest.FixtureRequest, authority: trustme.CA, redis_settings: RedisSettings
) -> Iterator[TlsProxy]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(request.param).configure_cert(context)
    behind = urlsplit(redis_settings.dsn)
    listener = socket.create_server(("127.0.0.1", 0))
    subject = TlsProxy(listener.getsockname()[1])

    def serve(client: socket.socket) -> None:
        with (
            client,
            suppress(OSError),
            context.wrap_socket(client, server_side=True) as near,
            socket.create_connection((behind.hostname or "", behind.port or 0)) as far,
        ):
            back = threading.Thread(target=_copy, args=(far, near))
            back.start()
            _copy(near, far, subject.received.append)
            back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield subject
    listener.close()


def ping(settings: Settings, url: str) -> None:
    with connect(settings.model_copy(update={"redis": RedisSettings(url=SecretStr(url))})).redis as client:
        assert client.ping()


def dial(url: str) -> None:
    with create_celery(RedisSettings(url=SecretStr(url))).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, reraise_as_library_errors=True)


@pytest.fixture
def known(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority is one that the process trusts."""
    bundle = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))


@pytest.mark.usefixtures("known")
def test_a_certificate_that_is_vouched_for_is_taken(proxy: TlsProxy, settings: Settings) -> None:
    url = proxy.url(settings.redis)
    dial(url)
    ping(settings, url)
    assert proxy.received


def refused(proxy: TlsProxy, settings: Settings) -> None:
    url = proxy.url(settings.redis)
    with pytest.raises((OperationalError, ssl.SSLError, redis.ConnectionError)):
        dial(url)
    with pytest.raises(redis.ConnectionError):
        ping(settings, url)
    assert not proxy.received


def test_one_that_nobody_vouches_for_is_told_nothing(proxy: TlsProxy, settings: Settings) -> None:
    refused(proxy, settings)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("proxy", ["another.example"], indirect=True)
def test_one_of_another_host_is_told_nothing(proxy: TlsProxy, settings: Settings) -> None:
    refused(proxy, settings)
