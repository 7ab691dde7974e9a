"""``make demo``."""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import httpx

from narrowcast_local.demo.report import DemoReport
from narrowcast_local.demo.show import Show
from narrowcast_local.demo.story import TENANT, Story
from narrowcast_local.stack import LocalStack, StackFailed


def main() -> int:
    """Tell the story; return 0 only if every step held."""
    parser = argparse.ArgumentParser(prog="python -m narrowcast_local.demo")
    parser.add_argument("--models", type=Path, default=Path(".local/models"), help="folder of base models")
    parser.add_argument("--folder", type=Path, default=Path(".local/demo"), help="where the stack's data go")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the drafts")
    options = parser.parse_args()
    once = os.environ.get("DEMO_ONCE") == "1"

    # Whoever sends SIGTERM wants the stack gone too. SIGINT as well, since a shell that starts a
    # command in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    show, report = Show(options.picture), DemoReport()
    stack = LocalStack(options.folder.resolve(), models=options.models.resolve())
    try:
        stack.claim()
    except StackFailed as error:
        show.say(f"[bold red]Not started:[/] {error}")
        return 1  # the report that lies here is the other's
    try:
        Story(stack, show, report).tell()
        report.ok = True
    except (StackFailed, httpx.HTTPError, OSError) as error:
        show.say(f"[bold red]Failed in step {report.failed_step}:[/] {error}")
    except KeyboardInterrupt:
        show.say("Interrupted.")
    finally:
        path = report.write(Path.cwd())
        if report.ok:
            total = sum(report.seconds.values())
            show.say(f"\nAll steps held, in {total:.0f} s. Figures: {path}")
            if not once:
                _stay(stack, show)
        with show.progress("stopping") as bar:
            stack.stop()
            bar.finish("everything is stopped")
    return 0 if report.ok else 1


def _stay(stack: LocalStack, show: Show) -> None:
    show.say(f"The stack stays up: API reference on {stack.url}/docs. For the calls in the README:")
    show.say(f"  URL={stack.url}\n  KEY={stack.api_key(TENANT)}\nCtrl-C stops everything.")
    try:
        signal.pause()
    except KeyboardInterrupt:
        show.say("")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
