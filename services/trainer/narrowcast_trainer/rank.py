"""A rank other than 0 of a training: ``python -m narrowcast_trainer.rank``, started by rank 0 alone.

The order comes over standard input; over ``--events`` goes one event, and only if it failed.
"""

import argparse
import sys
from pathlib import Path

from narrowcast import logs
from narrowcast.jobs.stopping import die_with
from narrowcast_trainer.engines import create_engine
from narrowcast_trainer.engines.base import TrainingStopped, TrainingTask
from narrowcast_trainer.protocol import Event
from narrowcast_trainer.ranks import RankOrder, ignore_stop_signals, join, rank
from narrowcast_trainer.reasons import reason_of
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.stop import StopSignal

_log = logs.get(__name__)


class _Silent(Reporter):
    """What there is to say, rank 0 says."""

    def send(self, event: Event) -> None:
        pass


def main(arguments: list[str] | None = None) -> int:
    """Train beside rank 0; return 0 if that came to its end."""
    parser = argparse.ArgumentParser(prog="python -m narrowcast_trainer.rank", description=__doc__)
    parser.add_argument("--events", type=int, required=True, help="file descriptor to write a failure to")
    parser.add_argument("--parent", type=int, required=True, help="rank 0, without which to train is useless")
    options = parser.parse_args(arguments)
    ignore_stop_signals()
    die_with(options.parent)
    order = RankOrder.model_validate_json(sys.stdin.buffer.read())
    logs.configure("trainer", order.log_level)
    with logs.bound(job_id=order.job_id, rank=rank()):
        try:
            join()
            create_engine(order.engine, order.settings.parallelism).train(
                _task(order, _Silent(options.events))
            )
        except TrainingStopped:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, rank 0 must hear of it
            _log.error("rank_failed", exc_info=error)
            Reporter(options.events).send(reason_of(error, order.settings.work_dir))
            return 1
    return 0


def _task(order: RankOrder, reporter: Reporter) -> TrainingTask:
    return TrainingTask(
        base=order.base,
        hyperparameters=order.hyperparameters,
        settings=order.settings,
        train=order.train,
        validation=order.validation,
        pad_id=order.pad_id,
        scratch=order.scratch,
        resume=order.resume,
        reporter=reporter,
        stop=StopSignal(),
        save_checkpoint=_never,
        max_micro_batch=order.max_micro_batch,
    )


def _never(_folder: Path, _step: int, _seconds: float) -> None:
    raise AssertionError("checkpoints are rank 0's to save")


if __name__ == "__main__":
    sys.exit(main())
