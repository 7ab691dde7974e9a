"""supervisord's configuration."""

from collections.abc import Sequence
from configparser import RawConfigParser
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

# A training step or a request may be in progress, but everything under the folder is thrown
# away: Ctrl-C should not take long.
_STOP_WAIT_S = 8


@dataclass(frozen=True)
class Program:
    """A process of the stack."""

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    store: bool = False
    """Stores come up first and go down last; the others start and stop side by side."""


def supervisor_config(folder: Path, programs: Sequence[Program]) -> str:
    """Return the text of ``supervisord.conf``; sockets, logs and pids lie under ``folder``.

    Each process is a group of its own and is restarted when it dies, as in a cluster.
    """
    config = RawConfigParser()
    socket = f"unix://{folder / 'supervisor.sock'}"
    config["supervisord"] = {
        "nodaemon": "true",
        "silent": "true",
        "logfile": str(folder / "logs" / "supervisord.log"),
        "pidfile": str(folder / "supervisord.pid"),
        "identifier": "narrowcast",
    }
    config["unix_http_server"] = {"file": str(folder / "supervisor.sock"), "chmod": "0700"}
    config["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    config["supervisorctl"] = {"serverurl": socket}
    for program in programs:
        config[f"program:{program.name}"] = {
            "command": " ".join(_quote(part) for part in program.command),
            "environment": ",".join(f"{key}={_quote(value)}" for key, value in program.environment.items()),
            "priority": "1" if program.store else "2",
            "autorestart": "true",
            "startsecs": "2",
            "startretries": "5",
            "stopwaitsecs": str(_STOP_WAIT_S),
            "stopasgroup": "false",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(folder / "logs" / f"{program.name}.log"),
            "stdout_logfile_maxbytes": "0",
        }
    text = StringIO()
    config.write(text)
    return text.getvalue()


def _quote(text: str) -> str:
    # Percent signs are supervisord's own expansions.
    escaped = text.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
