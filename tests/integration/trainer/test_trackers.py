"""What trackers are told of a training, by the libraries themselves on this machine's disk.

Each is an extra of the trainer; one that is not installed is not tested.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from narrowcast_trainer.protocol import Note
from narrowcast_trainer.settings import TrainingSettings
from narrowcast_trainer.trackers import TrackerName, tracker_environment

from .conftest import TOY
from .trainings import events_of, stopped, train

pytestmark = pytest.mark.filterwarnings("ignore")
RUN = "ftjob-0123456789ab"


def _train_in_two_parts(name: TrackerName, models_dir: Path, folder: Path) -> None:
    """As a job does that is paused after its third step."""
    settings = TrainingSettings(checkpoint_every_s=1e6, micro_batch_tokens=300, report_to=(name,))
    common: dict[str, Any] = {"settings": settings, "run_name": RUN}
    checkpoint = stopped(3, models_dir, folder, **common)
    train(models_dir, folder, scratch=folder / "rest", resume=checkpoint, **common)


def _warnings(folder: Path) -> list[str]:
    return [note.message for note in events_of(folder, Note) if note.level == "warn"]


def _assert_no_rows(place: Path) -> None:
    """A file, or all in a folder; rows' inputs and outputs alike are about a meniscus."""
    files = [path for path in (place, *place.rglob("*")) if path.is_file()]
    assert files, place
    for path in files:
        content = path.read_bytes()
        for word in ("ениск", json.dumps("ениск").strip('"')):
            assert word.encode() not in content, path


def test_wandb_offline(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    store = tmp_path / "wandb"
    store.mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(store))
    _train_in_two_parts("wandb", models_dir, tmp_path)
    assert _warnings(tmp_path) == []
    wandb.teardown()  # its own process writes the files; at a training process's end this happens by itself
    parts = sorted(store.rglob("*.wandb"))
    # One file a part, of one run.
    assert [path.name for path in parts] == [f"run-{RUN}.wandb"] * 2
    seen = b"".join(path.read_bytes() for path in parts)
    for sent in (b"train/loss", b"eval/loss", b"learning_rate", TOY.encode()):
        assert sent in seen
    _assert_no_rows(store)


def test_mlflow(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    _train_in_two_parts("mlflow", models_dir, tmp_path)
    assert _warnings(tmp_path) == []
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("narrowcast")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (RUN, "FINISHED")
    assert (run.data.params["base_model"], run.data.params["rank"]) == (TOY, "4")
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [one.step for one in losses] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert "eval_loss" in run.data.metrics
    _assert_no_rows(tmp_path / "mlflow.db")


def test_a_server_that_is_away_costs_a_warning(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from narrowcast_trainer.engines import tracking

    pytest.importorskip("wandb").teardown()  # it keeps the environment of its first use
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(tracking, "_WANDB_TIMEOUT_S", 1.0)
    _train_in_two_parts("wandb", models_dir, tmp_path)
    warnings = _warnings(tmp_path)
    assert len(warnings) == 2, "one an attempt"
    for warning in warnings:
        assert warning.startswith("wandb cannot be told")
        assert "127.0.0.1" not in warning


def test_what_is_not_installed_stops_the_worker_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = (
        "import sys; sys.modules['wandb'] = None\n"
        "from narrowcast_trainer.__main__ import main; sys.exit(main([]))"
    )
    monkeypatch.setenv("NARROWCAST_TRAINER__REPORT_TO", '["wandb"]')
    ended = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "pip install narrowcast-trainer[wandb]" in ended.stderr


def test_secrets_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARROWCAST_SECRETS_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "set")
    (tmp_path / "WANDB_API_KEY").write_text("from a file\n")
    (tmp_path / "MLFLOW_TRACKING_TOKEN").write_text("from a file\n")
    assert tracker_environment(()) == {}
    passed = tracker_environment(("wandb", "mlflow"))
    assert passed["WANDB_API_KEY"] == "from a file"
    assert "MLFLOW_TRACKING_TOKEN" not in passed
