"""``python -m narrowcast_trainer`` runs the worker; with ``--alive SECONDS`` it checks one that runs."""

import argparse
import sys

from narrowcast import logs
from narrowcast.errors import InvalidInput
from narrowcast.jobs.heartbeat import Heartbeat
from narrowcast.settings import settings_or_exit
from narrowcast_trainer.settings import TrainerSettings
from narrowcast_trainer.trackers import check_installed
from narrowcast_trainer.worker import run_worker

_SERVICE = "trainer"


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m narrowcast_trainer", description=__doc__)
    parser.add_argument(
        "--alive",
        type=float,
        metavar="SECONDS",
        help="start nothing; exit 0 if the worker of this node, or the training it runs, moved this recently",
    )
    parser.add_argument(
        "--one-job",
        action="store_true",
        help="run one job and exit 0; exit 0 as well if none comes within a minute",
    )
    options = parser.parse_args(arguments)
    settings = settings_or_exit(TrainerSettings, _SERVICE)
    if options.alive is not None:
        return 0 if Heartbeat(settings.trainer.heartbeat_file).is_fresh(options.alive) else 1
    logs.configure(_SERVICE, settings.log_level)
    try:
        check_installed(settings.trainer.report_to)
    except InvalidInput as error:
        sys.stderr.write(f"{error.message}\n")
        return 2
    return run_worker(settings, one_job=options.one_job)


if __name__ == "__main__":
    sys.exit(main())
