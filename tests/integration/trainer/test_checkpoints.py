"""Checkpoints in S3: used if whole, passed over if not."""

from pathlib import Path

from narrowcast.adapters import checkpoint_prefix
from narrowcast.artifacts import MANIFEST
from narrowcast_trainer.checkpoints import Checkpoints

from .conftest import Desk


def _save(checkpoints: Checkpoints, tmp_path: Path, step: int) -> None:
    folder = tmp_path / f"checkpoint-{step}"
    (folder / "sub").mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"o" * step)
    (folder / "sub" / "state.json").write_text(str(step))
    checkpoints.save(folder, step, seconds=float(step))


def test_the_newest_whole_checkpoint_is_taken(desk: Desk, checkpoints: Checkpoints, tmp_path: Path) -> None:
    models = desk.connections.storage.models
    for step in (5, 10, 15):
        _save(checkpoints, tmp_path, step)
    kept = {key.split("/")[3] for key in desk.checkpoints("ftjob-1")}
    assert kept == {"step-00000010", "step-00000015"}

    models.put(checkpoint_prefix(desk.tenant, "ftjob-1", 20) + "optimizer.pt", b"half")  # no manifest
    models.put(checkpoint_prefix(desk.tenant, "ftjob-1", 15) + "optimizer.pt", b"damaged")
    found = checkpoints.fetch_newest(tmp_path / "resume")
    assert found is not None
    assert (found.step, found.seconds) == (10, 10.0)
    assert (found.folder / "sub" / "state.json").read_text() == "10"

    # What is damaged is gone, or it would be taken for newer than what is saved from now on.
    assert {key.split("/")[3] for key in desk.checkpoints("ftjob-1")} == {"step-00000010"}
    _save(checkpoints, tmp_path / "anew", 15)
    again = checkpoints.fetch_newest(tmp_path / "again")
    assert again is not None
    assert again.step == 15

    for step in (10, 15):
        models.delete(checkpoint_prefix(desk.tenant, "ftjob-1", step) + MANIFEST)
    assert checkpoints.fetch_newest(tmp_path / "none") is None


def test_halves_of_checkpoints_go_with_the_next_whole_one(
    desk: Desk, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """A store that is nearly full would be filled by them."""
    _save(checkpoints, tmp_path, 5)
    for step in (3, 7, 8):
        desk.connections.storage.models.put(
            checkpoint_prefix(desk.tenant, "ftjob-1", step) + "optimizer.pt", b"half"
        )
    _save(checkpoints, tmp_path, 10)
    kept = {key.split("/")[3] for key in desk.checkpoints("ftjob-1")}
    assert kept == {"step-00000005", "step-00000010"}
