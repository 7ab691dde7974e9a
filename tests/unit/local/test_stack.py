"""The local stack's configuration."""

import configparser
from pathlib import Path

import pytest

from narrowcast_local.stack import LocalStack, servers
from narrowcast_local.stack.programs import Program, supervisor_config


def test_a_program_keeps_its_words_and_its_percent_signs(tmp_path: Path) -> None:
    program = Program("one", ["/bin/echo", "100%", 'a "b" c'], {"KEY": "50%,x"})
    config = configparser.RawConfigParser()
    config.read_string(supervisor_config(tmp_path, [program]))
    section = config["program:one"]
    assert section["command"] == '"/bin/echo" "100%%" "a \\"b\\" c"'
    assert section["environment"] == 'KEY="50%%,x"'
    assert section["autorestart"] == "true"


def test_free_ports_leave_room_for_grpc() -> None:
    assert servers.free_port(with_grpc=True) + 10_000 <= 65_535


def test_no_process_gets_a_default_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from narrowcast_gateway.settings import GatewaySettings

    stack = LocalStack(tmp_path / "stack", models=tmp_path)
    for key, value in stack.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("NARROWCAST_ENVIRONMENT", "production")
    settings = GatewaySettings()
    assert str(settings.servers.bases[stack.base_model]).startswith("http://127.0.0.1:")
