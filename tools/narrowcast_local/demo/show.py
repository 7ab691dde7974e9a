"""How the demo looks in a terminal."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import plotext
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_TITLES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}
_CHART_SIZE = (72, 14)
_PICTURE_WIDTH = 120
# A picture must not fetch its letters from somewhere.
_SVG = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


class Show:
    """Prints what is sent, what comes back, and how far things are."""

    def __init__(self, picture: Path | None = None) -> None:
        """``picture``: where the drafts go as SVG as well."""
        self.console = Console(highlight=False)
        self._picture = picture

    def title(self, number: int, text: str) -> None:
        """Announce a step."""
        self.console.print()
        self.console.rule(f"[bold]{number}. {text}", align="left")

    def say(self, text: str) -> None:
        """Explain something."""
        self.console.print(text)

    def request(self, method: str, path: str, body: Any = None) -> None:
        """Print a request as it is sent."""
        self.console.print(f"[bold cyan]→ {method} {path}[/]")
        if body is not None:
            text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, indent=2)
            self.console.print(f"[cyan]{_indented(text)}[/]", markup=True)

    def answer(self, body: Any) -> None:
        """Print the part of an answer that matters."""
        text = json.dumps(body, ensure_ascii=False, indent=2)
        self.console.print(f"[green]{_indented(text)}[/]")

    @contextmanager
    def progress(self, what: str) -> Iterator["Bar"]:
        """Show a progress bar that disappears into a line when done."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            yield Bar(progress, what)

    def loss_chart(self, points: list[tuple[int, float]]) -> None:
        """Draw training loss over steps."""
        if not points:
            return
        plotext.clear_figure()
        plotext.theme("clear")
        plotext.plot_size(*_CHART_SIZE)
        plotext.plot([step for step, _ in points], [loss for _, loss in points], marker="braille")
        plotext.title("training loss")
        plotext.xlabel("step")
        self.console.print(plotext.uncolorize(plotext.build()), markup=False)

    def side_by_side(self, impression: str, texts: dict[str, str]) -> None:
        """Show what was written for an impression, next to each other."""
        self.console.print(_panels(texts, self.console.width))
        if self._picture is not None:
            paper = Console(record=True, width=_PICTURE_WIDTH, file=io.StringIO(), force_terminal=True)
            paper.print(Panel(impression, title="impression", width=_PICTURE_WIDTH - 2))
            paper.print(_panels(texts, _PICTURE_WIDTH))
            paper.save_svg(str(self._picture), title="POST /v1/reports", code_format=_SVG)

    def rouge_table(self, scores: dict[str, dict[str, float]]) -> None:
        """Show F1 in percent, by contestant."""
        table = Table(title="ROUGE F1, %, on the held-out test split")
        table.add_column("")
        for metric in METRICS:
            table.add_column(_TITLES[metric], justify="right")
        for contestant, figures in scores.items():
            table.add_row(contestant, *(f"{100 * figures[metric]:.1f}" for metric in METRICS))
        self.console.print(table)


class Bar:
    """A progress bar."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=None, note="")

    def update(self, done: float | None = None, total: float | None = None, note: str = "") -> None:
        """Show how far it is."""
        self._progress.update(self._task, completed=done, total=total, note=note)

    def finish(self, note: str = "") -> None:
        """Fill the bar."""
        self._progress.update(self._task, total=1, completed=1, note=note)


def _panels(texts: dict[str, str], width: int) -> Columns:
    each = (width - 2 * len(texts)) // len(texts)
    return Columns([Panel(text or "(nothing)", title=title, width=each) for title, text in texts.items()])


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.replace("[", "\\[").splitlines())
