"""What the script of somebody who calls the API does: wait for an end, download."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from narrowcast.artifacts import sha256_of

_POLL_S = 0.3


def follow(
    http: httpx.Client, path: str, timeout_s: float, until: Callable[[dict[str, Any]], bool] | None = None
) -> dict[str, Any]:
    """Poll a job-like object until it has ended, or until ``until`` holds."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        state: dict[str, Any] = http.get(path).raise_for_status().json()
        if state["status"] in {"succeeded", "failed", "cancelled"} or (until is not None and until(state)):
            return state
        time.sleep(_POLL_S)
    raise AssertionError(f"{path} did not end in {timeout_s} s: {state}")


def export(http: httpx.Client, folder: Path, **wanted: Any) -> dict[str, Path]:
    """Export an adapter and download it, as a user does; return the files by name."""
    created = http.post("/v1/exports", json=wanted)
    assert created.status_code == 202, created.text
    path = f"/v1/exports/{created.json()['id']}"
    done = follow(http, path, 240)
    assert done["status"] == "succeeded", done
    files = {}
    for file in done["files"]:
        files[file["name"]] = folder / f"{done['id']}-{file['name']}"
        half = file["size"] // 2  # as if the download broke off there
        parts = (f"bytes=0-{half - 1}", f"bytes={half}-")
        with files[file["name"]].open("wb") as target:
            for part in parts:
                target.write(http.get(f"{path}/files/{file['name']}", headers={"Range": part}).content)
        assert sha256_of(files[file["name"]]) == file["sha256"]
    return files
