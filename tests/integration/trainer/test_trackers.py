"""What trackers are told of a training, by the libraries themselves on this machine's disk.

Each is an extra of the trainer; one that is not installed is not tested. W&B's is among the pinned packages,
the two others are in ``requirements/trackers.txt``, which says how to run their tests.
"""

import json
import subprocess
import sys
from collections.abc import Callable
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


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, empty, where all three of them keep what they are told."""
    folder = tmp_path / "stores"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for variable in ("WANDB_DIR", "TRACKIO_DIR"):
        monkeypatch.setenv(variable, str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads its variable where it is imported
    return folder


def _reporting(name: TrackerName, **changes: Any) -> dict[str, Any]:
    settings = TrainingSettings(checkpoint_every_s=1e6, micro_batch_tokens=300, report_to=(name,))
    return {"settings": settings.model_copy(update=changes), "run_name": RUN}


def _train_in_two_parts(
    name: TrackerName, models_dir: Path, folder: Path, between: Callable[[], None] = lambda: None
) -> None:
    """As a job does that is paused after its third step of eight, four to an epoch."""
    checkpoint = stopped(3, models_dir, folder, **_reporting(name))
    between()
    train(models_dir, folder, scratch=folder / "rest", resume=checkpoint, **_reporting(name))


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


def test_wandb_offline(
    models_dir: Path, tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    finish, exit_codes = wandb.finish, []
    monkeypatch.setattr(wandb, "finish", lambda exit_code: (exit_codes.append(exit_code), finish(exit_code)))
    _train_in_two_parts("wandb", models_dir, tmp_path)
    assert _warnings(tmp_path) == []
    assert exit_codes == [255, 0]
    wandb.teardown()  # its own process writes the files; at a training process's end this happens by itself
    parts = sorted(stores.rglob("*.wandb"))
    # One file a part, of one run.
    assert [path.name for path in parts] == [f"run-{RUN}.wandb"] * 2
    seen = b"".join(path.read_bytes() for path in parts)
    for sent in (b"train/loss", b"eval/loss", b"learning_rate", TOY.encode()):
        assert sent in seen
    _assert_no_rows(stores)


def _mlflow_run() -> Any:
    from mlflow import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("narrowcast").experiment_id])
    assert run.info.run_name == RUN
    return run


def test_mlflow(models_dir: Path, tmp_path: Path, stores: Path) -> None:
    mlflow = pytest.importorskip("mlflow")

    def killed() -> None:
        assert _mlflow_run().info.status == "KILLED"

    _train_in_two_parts("mlflow", models_dir, tmp_path, between=killed)
    assert _warnings(tmp_path) == []
    run = _mlflow_run()
    assert run.info.status == "FINISHED"
    assert (run.data.params["base_model"], run.data.params["rank"]) == (TOY, "4")
    history = mlflow.MlflowClient().get_metric_history
    assert [one.step for one in history(run.info.run_id, "loss")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [one.step for one in history(run.info.run_id, "eval_loss")] == [4, 8]
    _assert_no_rows(stores)


@pytest.mark.usefixtures("stores")
def test_mlflow_is_told_of_a_failure(models_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")

    def fail(*_: Any) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train(models_dir, tmp_path, save_checkpoint=fail, **_reporting("mlflow", checkpoint_every_s=0.0))
    assert _mlflow_run().info.status == "FAILED"


def test_trackio(models_dir: Path, tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    from trackio.cpu import CpuMonitor
    from trackio.sqlite_storage import SQLiteStorage

    monitors: list[CpuMonitor] = []
    # Its first figures come after ten seconds.
    monkeypatch.setattr(CpuMonitor, "start", lambda monitor: monitors.append(monitor))
    _train_in_two_parts("trackio", models_dir, tmp_path)
    assert _warnings(tmp_path) == []
    assert SQLiteStorage.get_runs("narrowcast") == [RUN]
    logs = SQLiteStorage.get_logs("narrowcast", RUN)
    steps = {name: [log["step"] for log in logs if name in log] for name in ("train/loss", "eval/loss")}
    assert steps == {"train/loss": [1, 2, 3, 4, 5, 6, 7, 8], "eval/loss": [4, 8]}
    assert len(logs) == 10
    config = SQLiteStorage.get_run_config("narrowcast", RUN) or {}
    assert (config["base_model"], config["rank"]) == (TOY, 4)
    assert monitors == [], "figures of the node"
    _assert_no_rows(stores)


def test_nothing_is_told_unless_the_site_says_so(models_dir: Path, tmp_path: Path, stores: Path) -> None:
    """Left to itself, the Trainer has reported to every tracker that is installed."""
    assert TrainingSettings().report_to == ()
    train(models_dir, tmp_path / "training", run_name=RUN)
    assert list(stores.iterdir()) == []


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
