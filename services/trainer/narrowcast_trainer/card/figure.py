"""The loss figure: training and validation loss over steps, its epochs and what was published marked."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from narrowcast.cards import TrainingCard

_SIZE_INCHES: Final = (8.0, 4.5)
_PNG_DPI: Final = 160
_TRAIN, _VALID, _PUBLISHED, _QUIET = "#2b6cb0", "#c05621", "#1a202c", "#718096"
_SMOOTHED_FROM: Final = 40
"""Steps from which the noise of single batches hides the curve."""
_WINDOW_SHARE: Final = 0.05
"""Of all steps, over which it is then averaged."""
_LABELLED_EPOCHS: Final = 12
_STYLE: Final[Any] = {
    # Ours in every sense: it comes with matplotlib and has Cyrillic.
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    # Shapes instead of letters: it looks the same where the font is missing.
    "svg.fonttype": "path",
    # Ids are drawn from this instead of at random: one record, one file.
    "svg.hashsalt": "narrowcast",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _QUIET,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    # A model's name is no formula.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class LossFigure:
    """One picture, twice."""

    png: bytes
    svg: bytes


def loss_figure(card: TrainingCard) -> LossFigure:
    """Draw a card's losses. The same card gives the same bytes, on the same version of matplotlib."""
    png, svg = io.BytesIO(), io.BytesIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure, card)
        figure.savefig(png, format="png", dpi=_PNG_DPI, metadata={"Software": None})
        FigureCanvasSVG(figure)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return LossFigure(png.getvalue(), svg.getvalue())


def _draw(figure: Figure, card: TrainingCard) -> None:
    axes = figure.add_subplot()
    train = [(point.step, point.train_loss) for point in card.history if point.train_loss is not None]
    valid = [(point.step, point.valid_loss) for point in card.history if point.valid_loss is not None]
    if train:
        _draw_training(axes, train, card.history_every)
    if valid:
        axes.plot(*zip(*valid, strict=True), color=_VALID, marker="o", markersize=5, label="validation")
    _mark_published(axes, card, valid + train)
    _mark_epochs(axes, card)
    configuration = card.configuration
    title = card.adapter or f"{card.job}: {card.error}"
    axes.set_title(title, loc="left", fontweight="bold", color=_PUBLISHED, pad=22)
    axes.text(
        0, 1.025,
        f"{configuration.base_model}, LoRA r={configuration.rank}, batch {configuration.batch_size},"
        f" learning rate {configuration.learning_rate:g}",
        transform=axes.transAxes, color=_QUIET, va="bottom",
    )  # fmt: skip
    axes.set_xlabel("step", color=_QUIET)
    axes.set_ylabel("loss, nats per trained token", color=_QUIET)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    axes.legend(loc="best", edgecolor="none", framealpha=1)


def _draw_training(axes: Any, train: Sequence[tuple[int, float]], every: int) -> None:
    steps, losses = zip(*train, strict=True)
    if len(train) < _SMOOTHED_FROM:
        axes.plot(steps, losses, color=_TRAIN, linewidth=1.6, label="training")
        return
    window = max(3, round(len(train) * _WINDOW_SHARE)) | 1  # odd, so that it has a middle
    single = "training, each step" if every == 1 else f"training, one step in {every}"
    axes.plot(steps, losses, color=_TRAIN, linewidth=0.8, alpha=0.35, label=single)
    label = f"training, mean of {window} steps" if every == 1 else f"training, mean of {window} of them"
    axes.plot(steps, _moving_mean(losses, window), color=_TRAIN, linewidth=1.8, label=label)


def _moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of the ``window`` values around each place; of fewer towards the ends."""
    half, count = window // 2, len(values)
    # By running totals: the windows themselves would be gigabytes for a training of 100,000 steps.
    total = [0.0, *accumulate(values)]
    bounds = [(max(0, place - half), min(count, place + half + 1)) for place in range(count)]
    return [(total[end] - total[start]) / (end - start) for start, end in bounds]


def _mark_published(axes: Any, card: TrainingCard, curve: Sequence[tuple[int, float]]) -> None:
    step = card.published_step
    if step is None:
        return
    loss = next((loss for at, loss in curve if at == step), None)
    if loss is None:
        axes.axvline(step, color=_PUBLISHED, linewidth=1, label=f"published: step {step}")
        return
    axes.plot(
        [step], [loss], linestyle="none", marker="*", markersize=15, color=_PUBLISHED, zorder=5,
        label=f"published: step {step}, loss {loss:.3f}",
    )  # fmt: skip


def _mark_epochs(axes: Any, card: TrainingCard) -> None:
    start = 0
    every = -(-len(card.epochs) // _LABELLED_EPOCHS)
    for epoch in card.epochs:
        axes.axvline(epoch.last_step, color="#cbd5e0", linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
        if (epoch.epoch - 1) % every == 0:
            middle = (start + epoch.last_step) / 2
            axes.annotate(
                f"epoch {epoch.epoch}", (middle, 0), xycoords=("data", "axes fraction"),
                xytext=(0, 4), textcoords="offset points", ha="center", va="bottom",
                fontsize=8, color=_QUIET,
            )  # fmt: skip
        start = epoch.last_step
