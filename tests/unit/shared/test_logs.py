"""Logs carry ids and places, never an exception's text or a local variable."""

import json
import subprocess
import sys

import pytest

from narrowcast import logs
from narrowcast.errors import InvalidInput

PATIENT = "Иванов Иван"

_SCRIPT = f"""
import logging
from narrowcast import logs
{{configure}}
patient = {PATIENT!r}
log = logs.get("test")
try:
    try:
        int(patient)
    except ValueError as inner:
        raise RuntimeError(patient) from inner
except RuntimeError:
    with logs.bound(job_id="ftjob-1"):
        log.error("failed", exc_info=True)
        {{standard}}
"""


@pytest.mark.parametrize("configured", [True, False])
def test_a_traceback_has_no_text_of_the_data(configured: bool) -> None:
    script = _SCRIPT.format(
        configure='logs.configure("unit")' if configured else "",
        standard='logging.getLogger("lib").exception("failed")' if configured else "",
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == (2 if configured else 1)
    for line in lines:
        assert line["job_id"] == "ftjob-1"
        assert line["exception"]["type"] == "RuntimeError"
        assert line["exception"]["cause"]["type"] == "ValueError"
    assert PATIENT not in done.stdout + done.stderr


def test_a_process_that_crashes_leaves_no_picture_of_its_memory() -> None:
    script = (
        'from narrowcast import logs; logs.configure("unit");'
        "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(0, 0)"


def test_our_own_errors_keep_their_message() -> None:
    try:
        raise InvalidInput("row 3 is empty", code="empty_output")
    except InvalidInput as error:
        described = logs.describe(error)
    assert (described["code"], described["message"]) == ("empty_output", "row 3 is empty")


def test_configuring_twice_logs_once() -> None:
    script = (
        'from narrowcast import logs; logs.configure("a"); logs.configure("a"); logs.get("x").info("once")'
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert len(done.stderr.splitlines()) == 1
