"""The training card: what it says, that it says it the same way twice, and what it leaves out."""

import csv
import io
import json
import math
import struct
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef
from narrowcast.cards import CARD, CARD_TEXT, LOSS_PNG, LOSS_SVG, STEP_METRICS, LossAt, TrainingCard
from narrowcast.sweeps import Trial
from narrowcast.training import Hyperparameters, TrainingSpec
from narrowcast_trainer import publish
from narrowcast_trainer.card.build import card_files, step_metrics
from narrowcast_trainer.card.figure import _moving_mean
from narrowcast_trainer.card.markdown import markdown
from narrowcast_trainer.card.record import RunRecord, points_of
from narrowcast_trainer.checkpoints import Resumable
from narrowcast_trainer.run import micro_batch_of

from .card_run import GIB, PER_EPOCH, STEPS, attempt, card, history, record

FILES = {CARD, CARD_TEXT, LOSS_PNG, LOSS_SVG, STEP_METRICS}


def test_the_paper_s_tables() -> None:
    made = card()
    assert (made.ending, made.published_step) == ("completed", 234)
    resources = made.resources
    assert resources.peak_memory_bytes == int(8.84 * GIB)
    assert (resources.peak_memory_percent, resources.training_memory_percent) == (55.2, 17.9)
    assert resources.seconds == pytest.approx(79.08 * 60), "added up over both attempts"
    assert resources.rows_seen == 3 * 936
    assert resources.tokens_per_s == pytest.approx(300)
    text = markdown(made)
    for line in (
        "| LoRA rank, alpha, dropout | 64, 64, 0 |",
        "| Trainable parameters | 167,772,160 (2.05 % of all) |",
        "| Batch size | 8 (2 at once × 4 accumulated) |",
        "| Steps | 351 of 351 |",
        "| Peak memory | 8.84 GiB (55.2 %) |",
        "| Training time | 79.08 min (4745 s) |",
        "| Attempts | 2, resumed after step 100 |",
        "| 2 (published) | 234 |",
        "| Validation, lowest | 0.7010 | 234 |",
    ):
        assert line in text, line


def test_a_training_that_failed_has_its_tables_and_its_curve() -> None:
    made = card(record(history(30)), failed="training_diverged", steps=30)
    assert (made.adapter, made.published_step) == (None, None)
    assert (made.ending, made.error) == ("failed", "training_diverged")
    text = markdown(made)
    assert "# ftjob-0\n" in text
    assert "Its reason was `training_diverged`, after step 30." in text
    assert "| Steps | 30 of 351 |" in text
    assert "published" not in text.replace("nothing of it was published", "")
    files = card_files(made)
    assert set(files) == FILES
    assert files[LOSS_PNG].startswith(b"\x89PNG")
    assert len(files[STEP_METRICS].splitlines()) == 31
    assert TrainingCard.model_validate_json(files[CARD]) == made


def test_the_trials_of_a_sweep() -> None:
    assert "## Trials" not in markdown(card())
    varied = {"learning_rate": 0.000123456, "rank": 32}
    trials = [
        Trial(number=1, state="failed", hyperparameters=varied, error="training_diverged"),
        Trial(number=2, state="complete", hyperparameters=varied, valid_loss=0.701, seconds=600),
    ]
    made = card(trials=trials)
    assert made.trials == trials
    assert (made.resources.total_seconds, made.resources.sweep_seconds) == (600, 4801)
    assert "| Time of all 2 trials |" in markdown(made)
    text = markdown(made)
    assert (
        "| 1 | learning_rate 0.0001235, rank 32 | – | 0.00 min (0 s) | failed (training_diverged) |" in text
    )
    assert (
        "| 2 (published) | learning_rate 0.0001235, rank 32 | 0.7010 | 10.00 min (600 s) | complete |" in text
    )


def test_the_curve_of_a_long_training_fits_into_memory() -> None:
    """A trainer that the kernel ends while it draws has lost what it trained for days."""
    losses = [2 + math.sin(step / 50) for step in range(30_000)]
    tracemalloc.start()
    smooth = _moving_mean(losses, 1501)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 1024**2
    for place in (0, 5, 15_000, 29_999):
        near = losses[max(0, place - 750) : place + 751]
        assert smooth[place] == pytest.approx(sum(near) / len(near), abs=1e-9)


def test_of_a_long_training_the_card_has_some_steps_and_says_so() -> None:
    steps, per_epoch, best = 10_001, 1_000, 4_000
    measured: list[dict[str, Any]] = [
        {"loss": 1 + (step - 3_337) ** 2 / 1e8, "epoch": step / per_epoch, "step": step}
        for step in range(1, steps + 1)
    ]
    measured += [
        {"eval_loss": 1.5 + abs(step - best) / 1e5, "epoch": step / per_epoch, "step": step}
        for step in range(per_epoch, steps, per_epoch)
    ]
    whole = card(record(measured), steps=steps, best_step=best)
    files = card_files(whole)
    shown = TrainingCard.model_validate_json(files[CARD])
    assert shown.history_every == 6
    at = {point.step for point in shown.history}
    assert {1, 7, 3_337, best, steps, *range(per_epoch, steps, per_epoch)} <= at
    assert len(at) == len(shown.history) < 2_020
    assert (shown.losses, shown.epochs) == (whole.losses, whole.epochs)
    assert len(files[STEP_METRICS].splitlines()) == 1 + steps
    assert "`card.json` and the figure show one step in 6" in files[CARD_TEXT].decode()
    assert "show one step in" not in markdown(card())


def test_the_curve_is_whole_and_by_epoch() -> None:
    made = card()
    assert [point.step for point in made.history] == list(range(1, STEPS + 1))
    at_validation = made.history[PER_EPOCH - 1]
    assert at_validation.train_loss is not None
    assert (at_validation.valid_loss, at_validation.learning_rate) == (0.742, pytest.approx(2e-4 * 2 / 3))
    assert [(one.epoch, one.last_step, one.valid_loss) for one in made.epochs] == [
        (1, 117, 0.742),
        (2, 234, 0.701),
        (3, 351, 0.713),
    ]
    assert made.losses.lowest_valid == LossAt(loss=0.701, step=234)
    assert made.losses.last_valid == LossAt(loss=0.713, step=351)
    assert made.losses.lowest_train is not None
    assert made.losses.lowest_train.loss == min(point.train_loss or 9.0 for point in made.history)
    first = [point.train_loss or 0.0 for point in made.history[:PER_EPOCH]]
    assert made.epochs[0].train_loss == pytest.approx(sum(first) / PER_EPOCH)


def test_the_same_card_gives_the_same_bytes() -> None:
    files = card_files(card())
    assert files == card_files(card())
    assert set(files) == FILES
    assert files[LOSS_PNG].startswith(b"\x89PNG")
    assert b"<svg" in files[LOSS_SVG]
    assert b"<dc:date>" not in files[LOSS_SVG]
    # Neither when it was drawn nor by what.
    assert not _chunks(files[LOSS_PNG]) & {b"tIME", b"tEXt", b"zTXt", b"iTXt", b"eXIf"}
    assert TrainingCard.model_validate_json(files[CARD]) == card()


def _chunks(png: bytes) -> set[bytes]:
    kinds, at = [], 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        kinds.append(kind)
        at += 12 + length
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")
    return set(kinds)


def test_a_steps_table_as_openai_has_it() -> None:
    rows = list(csv.DictReader(io.StringIO(card_files(card())[STEP_METRICS].decode())))
    assert list(rows[0])[:5] == [
        "step",
        "train_loss",
        "train_accuracy",
        "valid_loss",
        "valid_mean_token_accuracy",
    ]
    assert len(rows) == STEPS
    assert (rows[233]["step"], rows[233]["valid_loss"], rows[0]["valid_loss"]) == ("234", "0.701", "")


def test_front_matter_for_the_hub() -> None:
    import yaml

    _, front, body = markdown(card()).split("---\n", 2)
    fields = yaml.safe_load(front)
    assert (fields["library_name"], fields["base_model"]) == ("peft", "llama-3.1-8b")
    assert not {"license", "language"} & set(fields), "nobody said either"
    assert f"]({LOSS_PNG})" in body


def test_neither_tenant_nor_texts_are_in_it() -> None:
    everything = b"".join(content for name, content in card_files(card()).items() if name != LOSS_PNG)
    assert b"radiology" not in everything
    assert "тайну" not in everything.decode(), "an instruction of an uploaded file may be any text"


@pytest.mark.parametrize("steps", [1, 30, 150])
def test_a_kept_checkpoint_says_so(steps: int) -> None:
    run = record(history(steps))
    made = card(run, kept_checkpoint=True, steps=steps, best_step=steps)
    assert (made.ending, made.published_step) == ("kept_checkpoint", steps)
    assert made.epochs[-1].last_step == steps
    assert made.resources.rows_seen == (steps // PER_EPOCH) * 936 + steps % PER_EPOCH * 8
    assert "cancelled" in markdown(made)
    assert f"after step {steps}." in markdown(made)
    assert len(card_files(made)[LOSS_PNG]) > 10_000


def test_an_early_end_says_so() -> None:
    made = card(record(history(234)), steps=234, best_step=117)
    assert made.ending == "stopped_early"
    assert "stopped early" in markdown(made)
    assert "after step 117 of 234" in markdown(made)


def test_without_validation_or_any_record_there_is_still_a_card() -> None:
    card_files(card(record(history(60, validated=False)), steps=60, best_step=60))
    bare = card(RunRecord())
    assert bare.resources.peak_memory_bytes is None
    assert card_files(bare)
    assert "None" not in markdown(bare)


def test_accuracies_are_taken_where_the_engine_measures_them() -> None:
    measured = [
        {"loss": 1.0, "mean_token_accuracy": 0.7, "epoch": 1.0, "step": 1},
        {"eval_loss": 1.1, "eval_mean_token_accuracy": 0.6, "epoch": 1.0, "step": 1},
    ]
    (point,) = points_of(measured)
    assert (point.train_accuracy, point.valid_accuracy) == (0.7, 0.6)
    assert step_metrics([point]).splitlines()[1].startswith(b"1,1.0,0.7,1.1,0.6,1.0,")


def test_what_is_not_a_number_is_left_out() -> None:
    point = points_of([{"loss": 1.0, "grad_norm": float("nan"), "epoch": 0.5, "step": 1}])[0]
    assert (point.train_loss, point.grad_norm) == (1.0, None)


def test_the_record_travels_in_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history(100)}))
    run = record(history(100))
    run.write(tmp_path)
    assert RunRecord.read(tmp_path) == run.model_copy(update={"files": []})
    (tmp_path / "kept" / "run.json").write_text("{")
    assert RunRecord.read(tmp_path).points == run.points, "a damaged part costs that part"
    assert RunRecord.read(tmp_path / "none") == RunRecord()


def test_a_card_that_cannot_be_drawn_does_not_cost_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_card: TrainingCard) -> dict[str, bytes]:
        raise MemoryError

    made = card()
    spec = TrainingSpec(base_model="b", dataset="d", adapter_id="a-0a")
    order: Any = SimpleNamespace(spec=spec, task="train")
    config = {"r": 64, "lora_alpha": 64, "lora_dropout": 0.0, "target_modules": "all-linear"}
    manifest = AdapterManifest(
        id=made.adapter,
        tenant="t",
        base=BaseModelRef(name="b", fingerprint="f"),
        prompt=PromptRef(template="t", hash="h", default_instruction="i"),
        rank=64,
        engine="peft",
        dataset="d",
        job=made.job,
        metrics={"steps": 1.0},
    )
    assert set(publish._card(manifest, order, config, record())) == FILES
    monkeypatch.setattr("narrowcast_trainer.card.build.card_files", fail)
    assert publish._card(manifest, order, config, record()) == {}


def test_memory_is_that_of_all_attempts_alike() -> None:
    """What the last one's few rows took says nothing of the longest row, which estimates ask for."""
    run = RunRecord(
        attempts=[
            attempt(peak_memory_bytes=16, micro_batch=4),
            attempt(peak_memory_bytes=20, device="another"),
            attempt(peak_memory_bytes=10),
            attempt(peak_memory_bytes=9),
        ]
    )
    assert run.peak_memory_bytes == 10
    assert RunRecord().peak_memory_bytes == 0


def test_rows_that_ran_out_of_memory_are_not_tried_again_by_the_next_attempt(tmp_path: Path) -> None:
    resume = Resumable(folder=tmp_path, step=5, seconds=1.0)
    assert micro_batch_of(resume, Hyperparameters()) is None
    RunRecord(attempts=[attempt(micro_batch=4), attempt(micro_batch=2)]).write(tmp_path)
    assert micro_batch_of(resume, Hyperparameters()) == 2
    assert micro_batch_of(resume, Hyperparameters(n_trials=2)) is None
    assert micro_batch_of(None, Hyperparameters()) is None
