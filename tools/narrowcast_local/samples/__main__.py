"""Command line: ``python -m narrowcast_local.samples OUT --count 120 --format docx``."""

import argparse
import sys
from pathlib import Path

from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from narrowcast.errors import NarrowcastError
from narrowcast_local.samples.corpus import write_corpus, zip_corpus

_QUICK_DOCX = 40  # so many .docx files take less than two seconds: no progress bar


def main(arguments: list[str] | None = None) -> int:
    """Write a corpus; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m narrowcast_local.samples",
        description="Write synthetic Russian MRI reports of invented people and truth.jsonl.",
    )
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--count", type=_positive, default=40, help="number of reports (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other reports (default 0)")
    parser.add_argument(
        "--format", choices=("docx", "doc", "mixed"), default="docx", help="doc and mixed need LibreOffice"
    )
    parser.add_argument("--zip", type=Path, metavar="FILE", help="also pack the documents into FILE")
    options = parser.parse_args(arguments)
    quick = options.format == "docx" and options.count <= _QUICK_DOCX
    try:
        with Progress(
            *Progress.get_default_columns()[:3], MofNCompleteColumn(), TimeRemainingColumn(), disable=quick
        ) as bar:
            task = bar.add_task("writing reports", total=options.count)
            write_corpus(
                options.out,
                options.count,
                options.seed,
                options.format,
                lambda number: bar.advance(task, number),
            )
        if options.zip:
            zip_corpus(options.out, options.zip)
    except NarrowcastError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    print(f"{options.count} reports in {options.out}")
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
