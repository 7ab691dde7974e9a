"""The local stack's configuration."""

import configparser
import fcntl
from pathlib import Path

import pytest

from narrowcast_local.stack import LocalStack, StackFailed, servers
from narrowcast_local.stack.programs import Program, supervisor_config


def test_a_program_keeps_its_words_and_its_percent_signs(tmp_path: Path) -> None:
    program = Program("one", ["/bin/echo", "100%", 'a "b" c'], {"KEY": "50%,x"})
    config = configparser.RawConfigParser()
    config.read_string(supervisor_config(tmp_path, [program]))
    section = config["program:one"]
    assert section["command"] == '"/bin/echo" "100%%" "a \\"b\\" c"'
    assert section["environment"] == 'KEY="50%%,x"'
    assert section["autorestart"] == "true"


def test_ports_are_given_once_and_lie_below_those_of_outgoing_connections() -> None:
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = [servers.free_port(with_grpc=True) for _ in range(50)]
    assert len(set(ports)) == len(ports)
    assert max(ports) + 10_000 < first_ephemeral


def test_no_process_gets_a_default_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from narrowcast_gateway.settings import GatewaySettings

    stack = LocalStack(tmp_path / "stack", models=tmp_path)
    for key, value in stack.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("NARROWCAST_ENVIRONMENT", "production")
    settings = GatewaySettings()
    assert str(settings.servers.bases[stack.base_model]).startswith("http://127.0.0.1:")


def test_a_second_stack_does_not_take_the_data_of_one_that_runs(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    lock = folder.with_name("demo.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder.mkdir()
    (folder / "data").write_text("of the first")
    with pytest.raises(StackFailed, match="already"), LocalStack(folder, models=tmp_path):
        pytest.fail("two stacks in one folder")
    assert (folder / "data").read_text() == "of the first"
    lock.close()


def test_stores_go_down_after_those_who_write_to_them(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path / "stack", models=tmp_path)
    config = configparser.RawConfigParser()
    config.read_string(supervisor_config(tmp_path, stack._programs()))
    order = {name: config[f"program:{name}"]["priority"] for name in ("valkey", "s3", "trainer", "worker")}
    assert order == {"valkey": "1", "s3": "1", "trainer": "2", "worker": "2"}
