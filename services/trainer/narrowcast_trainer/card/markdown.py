"""The card for people: a model card in Markdown, with the front matter of Hugging Face's hub.

No licence is named: that of the base binds the adapter too, and the data are the site's. Nor is a
language: nobody has said which one the rows are in.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from narrowcast.cards import CARD, LOSS_PNG, STEP_METRICS, LossAt, TrainingCard
from narrowcast.sweeps import Trial, best_trial

_GIB: Final = 1024**3
"""What the paper calls GB."""
_UNKNOWN: Final = "–"
_ENDINGS: Final = {
    "completed": "The training ran to its end.",
    "stopped_early": "The training stopped early: the validation loss no longer fell.",
    "kept_checkpoint": "The training was cancelled; this is what its newest checkpoint held.",
    "failed": "The training failed, and nothing of it was published.",
}

Rows = Iterable[tuple[str, str]]


def markdown(card: TrainingCard) -> str:
    """Return the whole document."""
    made = datetime.fromtimestamp(card.created_at, UTC).strftime("%Y-%m-%d")
    sections = [
        _front_matter(card),
        f"# {card.adapter or card.job}",
        f"{_made(card)}, trained on {made} by job `{card.job}`. {_ENDINGS[card.ending]} {_published(card)}",
        f"![Training and validation loss over steps]({LOSS_PNG})",
        # Tables II and III of the paper whose recipe this is.
        "## Training configuration",
        _table(("Parameter", "Value"), _configuration(card)),
        "## Time and memory",
        _table(("Measure", "Value"), _resources(card)),
        "## Losses",
        "Nats per trained token; the training loss is the mean over an epoch's steps." + _thinned(card),
        _losses(card),
        *(("## Trials of the sweep", _trials(card.trials)) if card.trials else ()),
        "## Data",
        _data(card),
        "## Libraries",
        _table(("Library", "Version"), sorted(card.configuration.libraries.items())),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(card: TrainingCard) -> str:
    tags = ["lora", "peft", "narrowcast", "medical"]
    fields = {
        "library_name": "peft",
        "base_model": card.configuration.base_model,
        "pipeline_tag": "text-generation",
        "tags": tags,
    }
    # JSON is YAML; a base model's name may be anything that a folder may be called.
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _made(card: TrainingCard) -> str:
    what = "A LoRA adapter" if card.adapter else "What was to be a LoRA adapter"
    return f"{what} for `{card.configuration.base_model}`"


def _published(card: TrainingCard) -> str:
    step, last = card.published_step, card.resources.steps
    if step is None:
        return f"Its reason was `{card.error}`, after step {last}."
    if step == last:
        return f"Its weights are those after step {step}."
    return f"Its weights are those after step {step} of {last}, where the validation loss was lowest."


def _configuration(card: TrainingCard) -> Rows:
    it = card.configuration
    share = ""
    if it.trainable_parameters is not None and it.all_parameters:
        share = f" ({100 * it.trainable_parameters / it.all_parameters:.2f} % of all)"
    yield "Base model", f"`{it.base_model}`, fingerprint `{it.base_fingerprint[:12]}…`"
    yield "Engine", it.engine
    yield "Quantisation of the base", it.quantization or _UNKNOWN
    yield "Precision", it.precision or _UNKNOWN
    yield "LoRA rank, alpha, dropout", f"{it.rank}, {it.alpha}, {it.dropout:g}"
    yield "Target modules", ", ".join(it.target_modules)
    yield "Trainable parameters", _count(it.trainable_parameters) + share
    yield "Batch size", _batch(card)
    yield "Epochs", str(it.epochs)
    yield "Steps", f"{_count(card.resources.steps)} of {_count(it.planned_steps)}"
    yield "Learning rate", f"{it.learning_rate:g}"
    yield "Schedule", f"{it.scheduler}, warm-up over {100 * it.warmup_ratio:g} % of the steps"
    yield "Optimizer", it.optimizer or _UNKNOWN
    yield "Weight decay", f"{it.weight_decay:g}"
    yield "Longest row allowed", f"{_count(it.max_length)} tokens"
    patience = it.early_stopping_patience
    yield "Early stopping", f"after {patience} epochs without a lower validation loss" if patience else "off"
    yield "Seed", str(it.seed)
    yield "Prompt template", f"`{card.prompt_template}`"


def _batch(card: TrainingCard) -> str:
    it = card.configuration
    if it.micro_batch is None or it.accumulation_steps is None:
        return str(it.batch_size)
    parts = f"{it.micro_batch} at once × {it.accumulation_steps} accumulated"
    return f"{it.batch_size} ({parts}{f' × {it.devices} devices' if (it.devices or 1) > 1 else ''})"


def _resources(card: TrainingCard) -> Rows:
    it = card.resources
    yield "Device", it.device or _UNKNOWN
    yield "Its memory", _gigabytes(it.device_memory_bytes)
    yield "Peak memory", _gigabytes(it.peak_memory_bytes, it.peak_memory_percent)
    yield (
        "Peak memory of training, over the loaded base",
        _gigabytes(it.training_memory_bytes, it.training_memory_percent),
    )
    yield "Training time", _time(it.seconds)
    yield "Training time with loading the base", _time(it.total_seconds)
    if it.sweep_seconds is not None:
        yield f"Time of all {len(card.trials)} trials", _time(it.sweep_seconds)
    yield "Rows seen", _count(it.rows_seen)
    yield "Tokens seen", _count(it.tokens_seen)
    yield "Tokens per second", _count(None if it.tokens_per_s is None else round(it.tokens_per_s))
    if len(card.attempts) > 1:
        resumed = ", ".join(str(attempt.first_step - 1) for attempt in card.attempts[1:])
        yield "Attempts", f"{len(card.attempts)}, resumed after step {resumed}"


def _losses(card: TrainingCard) -> str:
    best = card.published_step
    rows = [
        (
            f"{epoch.epoch}{' (published)' if epoch.last_step == best else ''}",
            str(epoch.last_step),
            _loss(epoch.train_loss),
            _loss(epoch.valid_loss),
        )
        for epoch in card.epochs
    ]
    it = card.losses
    whole = [
        ("Training, mean of all steps", _loss(it.mean_train), _UNKNOWN),
        ("Training, last step", *_loss_at(it.last_train)),
        ("Training, lowest", *_loss_at(it.lowest_train)),
        ("Validation, last", *_loss_at(it.last_valid)),
        ("Validation, lowest", *_loss_at(it.lowest_valid)),
    ]
    return "\n\n".join(
        [
            _table(("Epoch", "Up to step", "Training", "Validation"), rows),
            _table(("Loss", "Value", "At step"), whole),
        ]
    )


def _thinned(card: TrainingCard) -> str:
    if card.history_every == 1:
        return ""
    return (
        f" `{CARD}` and the figure show one step in {card.history_every}, and all that were validated;"
        f" `{STEP_METRICS}` has all."
    )


def _trials(trials: list[Trial]) -> str:
    best = best_trial(trials)
    rows = [
        (
            f"{trial.number}{' (published)' if trial is best else ''}",
            ", ".join(f"{name} {_short(value)}" for name, value in trial.hyperparameters.items()),
            _loss(trial.valid_loss),
            _time(trial.seconds),
            f"{trial.state} ({trial.error})" if trial.error else trial.state,
        )
        for trial in trials
    ]
    return _table(("Trial", "Hyper-parameters", "Lowest validation loss", "Time", "Outcome"), rows)


def _data(card: TrainingCard) -> str:
    data = card.data
    text = _table(
        ("Data set", "Split", "Rows", "SHA-256"),
        [(f"`{file.dataset}`", file.split, _count(file.rows), f"`{file.sha256}`") for file in data.files],
    )
    if data.tokens is not None:
        counts = data.tokens
        text += (
            f"\n\nThe training rows have {_count(counts.train_tokens)} tokens, {_count(counts.answer_tokens)}"
            f" of them in answers, which the loss is over; the longest row has"
            f" {_count(counts.longest_row_tokens)}."
        )
    return text


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _count(number: int | None) -> str:
    return _UNKNOWN if number is None else f"{number:,}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _loss(loss: float | None) -> str:
    return _UNKNOWN if loss is None else f"{loss:.4f}"


def _loss_at(it: LossAt | None) -> tuple[str, str]:
    return (_UNKNOWN, _UNKNOWN) if it is None else (_loss(it.loss), str(it.step))


def _gigabytes(size: int | None, percent: float | None = None) -> str:
    if size is None:
        return _UNKNOWN
    return f"{size / _GIB:.2f} GiB" + (f" ({percent:g} %)" if percent is not None else "")


def _time(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else f"{seconds / 60:.2f} min ({seconds:.0f} s)"
