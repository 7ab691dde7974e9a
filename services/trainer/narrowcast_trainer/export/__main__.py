"""The export's process: ``python -m narrowcast_trainer.export``, started by the worker, never by hand.

The order comes over standard input, events go out over ``--events``. Asked to stop it dies where
it stands: nothing it has is worth keeping, the next attempt begins anew.
"""

import argparse
import signal
import sys
from pathlib import Path

from narrowcast import logs
from narrowcast.errors import NarrowcastError
from narrowcast.jobs.stopping import die_with
from narrowcast_trainer.export.order import ExportOrder
from narrowcast_trainer.export.pulse import Pulse
from narrowcast_trainer.export.space import DISK_FULL
from narrowcast_trainer.export.steps import run_export
from narrowcast_trainer.protocol import Completed, Failed
from narrowcast_trainer.reasons import SEE_LOG
from narrowcast_trainer.reasons import reason_of as training_reason_of
from narrowcast_trainer.reporter import Reporter

_log = logs.get(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Carry out one order; return 0 if it was completed, else 1."""
    parser = argparse.ArgumentParser(prog="python -m narrowcast_trainer.export", description=__doc__)
    parser.add_argument("--events", type=int, required=True, help="file descriptor to write events to")
    parser.add_argument(
        "--parent", type=int, required=True, help="process without which to export is useless"
    )
    options = parser.parse_args(arguments)
    die_with(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    order = ExportOrder.model_validate_json(sys.stdin.read())
    logs.configure("trainer", order.log_level)
    reporter = Reporter(options.events)
    Pulse(reporter.tick).start()
    with logs.bound(job_id=order.job_id):
        try:
            reporter.send(Completed(result=run_export(order, reporter)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must hear of it
            _log.error("export_failed", exc_info=error)
            reporter.send(reason_of(error, order.settings.work_dir))
            return 1
    return 0


def reason_of(error: Exception, work_dir: Path) -> Failed:
    """Return what the worker is told of an error; foreign errors' texts stay here."""
    reason = training_reason_of(error, work_dir)
    if isinstance(error, NarrowcastError):
        return reason
    words = {"disk_full": DISK_FULL, "out_of_memory": ExportOrder.out_of_memory}
    if reason.code in words:
        return reason.model_copy(update={"message": words[reason.code]})
    message = f"the export stopped with {type(error).__name__}: {SEE_LOG}"
    return Failed(code="export_crashed", message=message, retry=isinstance(error, OSError))


if __name__ == "__main__":
    sys.exit(main())
