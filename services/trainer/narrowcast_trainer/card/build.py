"""From the record of a run to the files of its card."""

import csv
import io
from collections.abc import Mapping
from typing import Any, Final

from narrowcast.adapters import AdapterManifest
from narrowcast.cards import (
    CARD,
    CARD_TEXT,
    LOSS_PNG,
    LOSS_SVG,
    STEP_METRICS,
    Ending,
    EpochLosses,
    LossAt,
    LossSummary,
    Point,
    TrainingCard,
    TrainingConfiguration,
    TrainingData,
    TrainingResources,
)
from narrowcast.sweeps import best_trial
from narrowcast.training import TrainingSpec
from narrowcast_trainer.card.figure import loss_figure
from narrowcast_trainer.card.markdown import markdown
from narrowcast_trainer.card.record import RunRecord

_MOST_POINTS: Final = 2000
"""A card of 100,000 steps would be 30 MB; the figure has 1,300 pixels for them."""


def card_files(card: TrainingCard) -> dict[str, bytes]:
    """Return the files of a card, by the names they have in the adapter's artifact.

    Args:
        card: with all steps.
    """
    shown = _thinned(card)
    figure = loss_figure(shown)
    return {
        CARD: shown.model_dump_json(indent=1).encode(),
        CARD_TEXT: markdown(shown).encode(),
        LOSS_PNG: figure.png,
        LOSS_SVG: figure.svg,
        STEP_METRICS: step_metrics(card.history),
    }


def _thinned(card: TrainingCard) -> TrainingCard:
    """Return a card with so few steps that it can be sent and drawn."""
    points, lowest = card.history, card.losses.lowest_train
    every = -(-len(points) // _MOST_POINTS)
    if every <= 1:
        return card
    wanted = {points[-1].step, card.published_step, lowest.step if lowest else None}
    kept = [
        point
        for place, point in enumerate(points)
        if place % every == 0 or point.step in wanted or point.valid_loss is not None
    ]
    return card.model_copy(update={"history": kept, "history_every": every})


def build_card(
    manifest: AdapterManifest,
    spec: TrainingSpec,
    adapter_config: Mapping[str, Any],
    run: RunRecord,
    *,
    kept_checkpoint: bool,
    failed: str | None = None,
) -> TrainingCard:
    """Return the card of a run.

    Args:
        manifest: of the adapter, its files not yet listed; or what it would have been.
        spec: of the job.
        adapter_config: PEFT's.
        run: its record, from the run itself or from a checkpoint.
        kept_checkpoint: whether a cancelled job's checkpoint is being published.
        failed: code of the reason for which nothing is.
    """
    steps = int(manifest.metrics["steps"])
    planned = run.attempts[-1].planned_steps if run.attempts else None
    ending: Ending = "completed"
    if failed is not None:
        ending = "failed"
    elif kept_checkpoint:
        ending = "kept_checkpoint"
    elif planned is not None and steps < planned:
        ending = "stopped_early"
    return TrainingCard(
        adapter=None if failed else manifest.id,
        job=manifest.job,
        created_at=int(manifest.created_at),
        ending=ending,
        error=failed,
        published_step=None if failed else int(manifest.metrics.get("best_step", steps)),
        prompt_template=manifest.prompt.template,
        configuration=_configuration(manifest, spec, adapter_config, run),
        resources=_resources(manifest, run, steps, spec.hyperparameters.batch_size),
        data=TrainingData(
            dataset=spec.dataset,
            validation_dataset=spec.validation_dataset,
            files=run.files,
            tokens=run.tokens,
        ),
        losses=_losses(run.points),
        epochs=_epochs(run.points),
        attempts=run.attempts,
        trials=manifest.trials,
        history=run.points,
    )


def _configuration(
    manifest: AdapterManifest, spec: TrainingSpec, adapter_config: Mapping[str, Any], run: RunRecord
) -> TrainingConfiguration:
    hyper = spec.hyperparameters
    # The last one made the weights; an earlier one may have had fewer rows at once, or another GPU.
    last = run.attempts[-1] if run.attempts else None
    modules = adapter_config["target_modules"]
    return TrainingConfiguration(
        base_model=manifest.base.name,
        base_fingerprint=manifest.base.fingerprint,
        engine=manifest.engine,
        quantization=manifest.quantization,
        precision=last and last.precision,
        rank=manifest.rank,
        alpha=int(adapter_config["lora_alpha"]),
        dropout=float(adapter_config["lora_dropout"]),
        # Some of PEFT's names say in which block, too.
        target_modules=[modules]
        if isinstance(modules, str)
        else sorted({name.rpartition(".")[2] for name in modules}),
        trainable_parameters=last and last.trainable_parameters,
        all_parameters=last and last.all_parameters,
        batch_size=hyper.batch_size,
        micro_batch=last and last.micro_batch,
        accumulation_steps=last and last.accumulation_steps,
        devices=last and last.devices,
        epochs=hyper.n_epochs,
        planned_steps=last and last.planned_steps,
        learning_rate=hyper.learning_rate * hyper.learning_rate_multiplier,
        scheduler=hyper.scheduler,
        warmup_ratio=hyper.warmup_ratio,
        weight_decay=hyper.weight_decay,
        optimizer=last and last.optimizer,
        max_length=hyper.max_length,
        early_stopping_patience=hyper.early_stopping_patience,
        seed=hyper.seed,
        hyperparameters=hyper.model_dump(mode="json"),
        libraries=last.libraries if last else {},
    )


def _resources(manifest: AdapterManifest, run: RunRecord, steps: int, batch_size: int) -> TrainingResources:
    attempts, points = run.attempts, run.points
    best = best_trial(manifest.trials)
    resources = TrainingResources(
        seconds=round(sum(attempt.seconds for attempt in attempts), 1) if attempts else None,
        total_seconds=best.seconds if best else manifest.metrics.get("seconds"),
        sweep_seconds=manifest.metrics.get("seconds") if best else None,
        steps=steps,
        rows_seen=_rows_seen(run, steps, batch_size),
        tokens_seen=run.trained_tokens,
        tokens_per_s=_tokens_per_s(points),
    )
    if not attempts:
        return resources
    # Percentages are of the card that the peak was on.
    peak = max(attempts, key=lambda attempt: attempt.peak_memory_bytes)
    training = peak.peak_memory_bytes - peak.loaded_memory_bytes
    return resources.model_copy(
        update={
            "device": peak.device,
            "device_memory_bytes": peak.device_memory_bytes,
            "peak_memory_bytes": peak.peak_memory_bytes,
            "peak_memory_percent": _percent(peak.peak_memory_bytes, peak.device_memory_bytes),
            "training_memory_bytes": training,
            "training_memory_percent": _percent(training, peak.device_memory_bytes),
        }
    )


def _tokens_per_s(points: list[Point]) -> float | None:
    """Return tokens over time, not a mean of rates: a slow step counts for as long as it took."""
    timed = [(point.tokens, point.tokens_per_s) for point in points if point.tokens and point.tokens_per_s]
    seconds = sum(tokens / rate for tokens, rate in timed)
    return round(sum(tokens for tokens, _ in timed) / seconds, 1) if seconds else None


def _rows_seen(run: RunRecord, steps: int, batch_size: int) -> int | None:
    if run.tokens is None:
        return None
    rows = run.tokens.train_rows
    per_epoch = -(-rows // batch_size)
    epochs, rest = divmod(steps, per_epoch)
    # The last batch of an epoch is a short one.
    return epochs * rows + rest * batch_size


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 1) if whole else None


def _losses(points: list[Point]) -> LossSummary:
    train = [LossAt(loss=one.train_loss, step=one.step) for one in points if one.train_loss is not None]
    valid = [LossAt(loss=one.valid_loss, step=one.step) for one in points if one.valid_loss is not None]
    return LossSummary(
        mean_train=sum(one.loss for one in train) / len(train) if train else None,
        last_train=train[-1] if train else None,
        lowest_train=min(train, key=lambda one: one.loss, default=None),
        last_valid=valid[-1] if valid else None,
        lowest_valid=min(valid, key=lambda one: one.loss, default=None),
    )


def _epochs(points: list[Point]) -> list[EpochLosses]:
    found = []
    for number in sorted({_epoch(point) for point in points}):
        inside = [point for point in points if _epoch(point) == number]
        losses = [point.train_loss for point in inside if point.train_loss is not None]
        validated = [point.valid_loss for point in inside if point.valid_loss is not None]
        found.append(
            EpochLosses(
                epoch=number,
                last_step=inside[-1].step,
                train_loss=sum(losses) / len(losses) if losses else None,
                valid_loss=validated[-1] if validated else None,
            )
        )
    return found


def _epoch(point: Point) -> int:
    """Return the epoch, from 1, that a step belongs to: Trainer says 1.0 after the first one's last."""
    # Fractions of an epoch are sums of floats.
    return max(1, -int(-(point.epoch - 1e-6) // 1))


def step_metrics(points: list[Point]) -> bytes:
    """Return OpenAI's result file: its columns by its names, then ours. What was not measured is empty."""
    columns = {
        "step": "step",
        "train_loss": "train_loss",
        "train_accuracy": "train_accuracy",
        "valid_loss": "valid_loss",
        "valid_mean_token_accuracy": "valid_accuracy",
        "epoch": "epoch",
        "learning_rate": "learning_rate",
        "grad_norm": "grad_norm",
        "tokens": "tokens",
        "tokens_per_s": "tokens_per_s",
        "memory_bytes": "memory_bytes",
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for point in points:
        values = point.model_dump()
        writer.writerow([values[ours] for ours in columns.values()])
    return text.getvalue().encode()
