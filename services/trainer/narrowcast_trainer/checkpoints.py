"""Checkpoints of one job in S3: complete or not there, newest first, a few kept."""

import json
import math
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from narrowcast import logs
from narrowcast.adapters import checkpoint_prefix
from narrowcast.artifacts import CorruptArtifact, discard, fetch, publish, read_manifest
from narrowcast.checkpoints import CheckpointManifest, checkpoint_steps, complete_checkpoints
from narrowcast.errors import NotFound
from narrowcast.storage import Bucket

_log = logs.get(__name__)


class Resumable(BaseModel):
    """A checkpoint on this node's disk."""

    folder: Path
    step: int
    seconds: float


class Checkpoints:
    """The checkpoints of one job."""

    def __init__(self, bucket: Bucket, tenant: str, job_id: str, keep: int) -> None:
        self._bucket = bucket
        self._tenant = tenant
        self._job_id = job_id
        self._keep = keep

    def save(self, folder: Path, step: int, seconds: float) -> None:
        """Upload what the trainer wrote into ``folder``, then delete all but the newest complete ones.

        Raises:
            Unavailable: the object store does not answer; the checkpoint does not exist.
        """
        prefix = self._prefix(step)
        if self._complete(step):
            return
        self._bucket.delete_prefix(prefix)  # half of one, from an attempt that died here
        files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        manifest = CheckpointManifest(
            id=f"{self._job_id}-{step}",
            tenant=self._tenant,
            step=step,
            seconds=seconds,
            metrics=newest_losses(folder),
        )
        publish(self._bucket, prefix, files, manifest)
        complete = complete_checkpoints(self._bucket, self._tenant, self._job_id)
        kept = {one.step for one in islice(complete, self._keep)}
        for lying in checkpoint_steps(self._bucket, self._tenant, self._job_id):
            if lying not in kept:  # older, or half of one that could not be saved
                discard(self._bucket, self._prefix(lying))

    def fetch_newest(self, folder: Path) -> Resumable | None:
        """Download the newest checkpoint that is whole into ``folder``; None if there is none."""
        for step in checkpoint_steps(self._bucket, self._tenant, self._job_id):
            try:
                manifest = read_manifest(self._bucket, self._prefix(step), CheckpointManifest)
                shutil.rmtree(folder, ignore_errors=True)
                folder.parent.mkdir(parents=True, exist_ok=True)
                fetch(self._bucket, self._prefix(step), manifest, folder)
            except (NotFound, CorruptArtifact):
                _log.warning("checkpoint_skipped", step=step, exc_info=True)
                # Or it would be taken for a newer one than those that are saved from now on.
                discard(self._bucket, self._prefix(step))
                continue
            return Resumable(folder=folder, step=step, seconds=manifest.seconds)
        return None

    def _complete(self, step: int) -> bool:
        try:
            read_manifest(self._bucket, self._prefix(step), CheckpointManifest)
        except (NotFound, CorruptArtifact):
            return False
        return True

    def _prefix(self, step: int) -> str:
        return checkpoint_prefix(self._tenant, self._job_id, step)


def newest_losses(folder: Path) -> dict[str, float]:
    """Return ``train_loss`` and ``valid_loss`` as a Trainer's checkpoint has them last, if it has any."""
    losses: dict[str, float] = {}
    for entry in _history(folder):
        for theirs, ours in (("loss", "train_loss"), ("eval_loss", "valid_loss")):
            if isinstance(entry.get(theirs), int | float) and math.isfinite(entry[theirs]):
                losses[ours] = float(entry[theirs])
    return losses


def best_losses(folder: Path) -> dict[str, float]:
    """As :func:`newest_losses`, but with ``valid_loss`` the lowest, and its ``best_step``."""
    evaluated = [entry for entry in _history(folder) if "eval_loss" in entry]
    best = min(evaluated, key=lambda entry: float(entry["eval_loss"]), default=None)
    if best is None:
        return newest_losses(folder)
    return newest_losses(folder) | {"best_step": float(best["step"]), "valid_loss": float(best["eval_loss"])}


def _history(folder: Path) -> list[dict[str, Any]]:
    try:
        history: list[dict[str, Any]] = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    except (OSError, ValueError, KeyError):
        return []
    return history
