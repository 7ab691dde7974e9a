"""Checkpoints of training jobs as everyone sees them: complete, or not there."""

from collections.abc import Iterator

from pydantic import Field

from narrowcast.adapters import checkpoint_prefix
from narrowcast.artifacts import CorruptArtifact, Manifest, read_manifest
from narrowcast.errors import NotFound
from narrowcast.storage import Bucket


class CheckpointManifest(Manifest):
    """Marks a checkpoint as complete."""

    step: int
    seconds: float
    """Training time behind it, over all attempts."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """The newest ``train_loss`` and ``valid_loss`` (nats a trained token), where there are any."""


def checkpoint_steps(models: Bucket, tenant: str, job_id: str) -> list[int]:
    """Return the steps of which something lies in the bucket, complete or not, newest first."""
    names = models.folders(checkpoint_prefix(tenant, job_id))
    numbers = (name.removeprefix("step-") for name in names)
    return sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)


def complete_checkpoints(models: Bucket, tenant: str, job_id: str) -> Iterator[CheckpointManifest]:
    """Yield a job's complete checkpoints, newest first.

    Raises:
        Unavailable: the object store does not answer.
    """
    for step in checkpoint_steps(models, tenant, job_id):
        try:
            yield read_manifest(models, checkpoint_prefix(tenant, job_id, step), CheckpointManifest)
        except (NotFound, CorruptArtifact):
            continue  # half of one, or one that is being replaced
