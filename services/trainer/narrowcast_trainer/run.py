"""The training process: ``python -m narrowcast_trainer.run``, started by the worker, never by hand.

The order comes over standard input, events go out over ``--events``; see :mod:`.protocol`.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from narrowcast import logs
from narrowcast.adapters import ADAPTER_CONFIG, AdapterManifest, checkpoint_prefix
from narrowcast.artifacts import read_manifest
from narrowcast.checkpoints import CheckpointManifest
from narrowcast.errors import JobFailed
from narrowcast.jobs.stopping import die_with
from narrowcast.storage import Storage
from narrowcast.training import Hyperparameters
from narrowcast_trainer.card.record import RunRecord
from narrowcast_trainer.checkpoints import Checkpoints, Resumable, best_losses
from narrowcast_trainer.checks import (
    CheckedBase,
    CheckedRows,
    check_base,
    check_engine,
    check_ranks,
    check_rows,
)
from narrowcast_trainer.data import token_count
from narrowcast_trainer.engines import create_engine
from narrowcast_trainer.engines.base import Engine, Trained, TrainingStopped, TrainingTask
from narrowcast_trainer.engines.best import best_in
from narrowcast_trainer.patience import patiently
from narrowcast_trainer.protocol import Completed, Stopped, TaskName, TrainingOrder
from narrowcast_trainer.publish import (
    publish_adapter,
    publish_failed_card,
    published_hyperparameters,
    published_result,
    result_of,
)
from narrowcast_trainer.ranks import SeveralRanks, rank_count
from narrowcast_trainer.reasons import reason_of
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.stop import StopSignal
from narrowcast_trainer.sweep import Sweep, best_so_far, first_run, of_running_trial

_log = logs.get(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Carry out one order; return 0 if it was completed or stopped on request, else 1."""
    parser = argparse.ArgumentParser(prog="python -m narrowcast_trainer.run", description=__doc__)
    parser.add_argument("--events", type=int, required=True, help="file descriptor to write events to")
    parser.add_argument("--parent", type=int, required=True, help="process without which to train is useless")
    options = parser.parse_args(arguments)
    die_with(options.parent)
    stop = StopSignal()
    stop.install()
    order = TrainingOrder.model_validate_json(sys.stdin.read())
    logs.configure("trainer", order.log_level)
    reporter = Reporter(options.events)
    with logs.bound(job_id=order.job_id):
        try:
            reporter.send(Completed(result=_TASKS[order.task](order, reporter, stop)))
        except TrainingStopped as stopped:
            reporter.send(Stopped(step=stopped.step))
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must hear of it
            _log.error("training_failed", exc_info=error)
            reporter.send(reason_of(error, order.settings.work_dir))
            return 1
    return 0


def check(order: TrainingOrder, _reporter: Reporter, _stop: StopSignal) -> dict[str, Any]:
    """Refuse what :func:`train` would refuse before it loads the base, without the GPU; return nothing."""
    check_ranks(order)
    check_engine(order)
    base = check_base(order)
    check_rows(order, Storage(order.storage).data, base.folder)
    return {}


def train(order: TrainingOrder, reporter: Reporter, stop: StopSignal) -> dict[str, Any]:
    """Check, train, try out and publish what was ordered; return the job's result."""
    storage = Storage(order.storage)
    check_ranks(order)
    base = check_base(order)
    engine = _engine(order, reporter)
    checked = check_rows(order, storage.data, base.folder)
    tokens = token_count(checked.train)
    reporter.note(f"training {order.spec.base_model} with the {engine.name} engine", engine=engine.name)
    reporter.note(f"{len(checked.train)} rows, {tokens} tokens", rows=len(checked.train), tokens=tokens)
    scratch = _scratch(order)
    resume = _checkpoints(order, storage).fetch_newest(scratch / "resume")
    task = _task(order, storage, base, checked, reporter, stop, resume)
    if stop.requested:
        raise TrainingStopped(resume.step if resume else None)
    unpublished: list[tuple[RunRecord, Hyperparameters]] = []
    task = replace(task, keep_record=lambda *run: unpublished.append(run))
    task = _with_fewer_rows(task, _losses_since(order, storage, resume))
    try:
        trained = engine.train(task) if task.hyperparameters.n_trials == 1 else Sweep(engine, task).run()
        task.keep_record(trained.record, published_hyperparameters(task.hyperparameters, trained.trials))
        manifest = _publish(order, storage, base, checked, engine, task, trained)
    except JobFailed as error:
        if unpublished:
            record, hyperparameters = unpublished[-1]
            if publish_failed_card(
                storage.data,
                order,
                engine=engine.name,
                fingerprint=base.fingerprint,
                hyperparameters=hyperparameters,
                record=record.model_copy(update={"files": checked.rows.files}),
                error=error,
            ):
                reporter.note("the job's training card shows how far it came, and its losses")
        raise
    reporter.note(f"adapter {manifest.id} is published", adapter=manifest.id)
    return result_of(manifest)


def micro_batch_of(resume: Resumable | None, hyperparameters: Hyperparameters) -> int | None:
    """Return that of the attempt to be resumed: where more ran out of memory, they would again."""
    if resume is None or hyperparameters.n_trials > 1:  # a sweep keeps its own
        return None
    attempts = RunRecord.read(resume.folder).attempts
    return attempts[-1].micro_batch if attempts else None


def _losses_since(order: TrainingOrder, storage: Storage, resume: Resumable | None) -> int:
    """Return how many workers were lost in attempts that began after the newest checkpoint was made."""
    # Of a process that ran out of memory by itself the worker has told us what is left to try.
    if order.max_micro_batch is not None or not order.lost_attempts:
        return 0
    made_at = 0.0
    if resume is not None:
        prefix = checkpoint_prefix(order.tenant, order.job_id, resume.step)
        made_at = read_manifest(storage.models, prefix, CheckpointManifest).created_at
    return sum(began_at > made_at for began_at in order.lost_attempts)


def _with_fewer_rows(task: TrainingTask, losses: int) -> TrainingTask:
    """Return the task with half as many rows at once for each worker lost since the newest checkpoint.

    Where memory runs out for a whole container the worker dies with its training (the kubelet sets
    ``memory.oom.group``), and nobody is left to say why. Whoever died where it began would do so again. The
    next checkpoint tells those to come how many rows went well (:func:`micro_batch_of`).
    """
    if losses == 0:
        return task
    # Not at the top: it imports Transformers, which the engine, created by now, may have to import first.
    from narrowcast_trainer.engines.loop import training_micro_batch

    run, ranks = first_run(task), rank_count(task.settings, task.hyperparameters)
    of_a_rank = {"batch_size": run.hyperparameters.batch_size // ranks}
    rows = training_micro_batch(
        replace(run, hyperparameters=run.hyperparameters.model_copy(update=of_a_rank))
    )
    fewer = max(rows >> losses, 1)
    if fewer == rows:
        return task
    task.reporter.note(
        f"the worker was lost before it made a checkpoint: trying again with {fewer} rows at once,"
        " in case memory ran out; batch_size stays what it was",
        warn=True,
    )
    return replace(task, max_micro_batch=fewer)


def publish_checkpoint(order: TrainingOrder, reporter: Reporter, stop: StopSignal) -> dict[str, Any]:
    """Try out and publish the best adapter in the job's newest whole checkpoint; return the job's result.

    Of a job whose own adapter is published already it is that one.

    Raises:
        JobFailed: ``no_checkpoint``, ``smoke_test_failed``, or what :func:`publish_adapter` finds wrong.
    """
    storage = Storage(order.storage)
    if published := published_result(storage.models, order):
        return published
    base = check_base(order)
    found = _checkpoints(order, storage).fetch_newest(_scratch(order) / "kept")
    if found is None:
        raise JobFailed("the job has no complete checkpoint", code="no_checkpoint")
    engine = create_engine(order.spec.hyperparameters.engine, order.settings.parallelism)
    checked = check_rows(order, storage.data, base.folder)
    hyperparameters, trained = _kept(found, checked.hyperparameters)
    task = _task(order, storage, base, checked, reporter, stop, None)
    task = replace(task, hyperparameters=hyperparameters)
    manifest = _publish(order, storage, base, checked, engine, task, trained)
    reporter.note(f"adapter {manifest.id} is published from a checkpoint", adapter=manifest.id)
    return result_of(manifest)


def _kept(found: Resumable, hyperparameters: Hyperparameters) -> tuple[Hyperparameters, Trained]:
    """Return what a checkpoint holds as if its run had ended there, and what that was trained with."""
    if (best := best_so_far(found.folder)) is not None:
        return hyperparameters, best
    hyperparameters, found = of_running_trial(hyperparameters, found)
    adapter = best_in(found.folder) or found.folder
    if not (adapter / ADAPTER_CONFIG).is_file():
        raise JobFailed("no trial of the job has anything to keep yet", code="no_checkpoint")
    record = RunRecord.read(found.folder)
    metrics = {"steps": float(found.step), "seconds": found.seconds, **best_losses(found.folder)}
    return hyperparameters, Trained(adapter, record.quantization, metrics, record)


def _publish(
    order: TrainingOrder,
    storage: Storage,
    base: CheckedBase,
    checked: CheckedRows,
    engine: Engine,
    task: TrainingTask,
    trained: Trained,
) -> AdapterManifest:
    """Try out and publish what was trained; sit out a while without the object store."""
    task.reporter.note("trying the adapter out before it is published")
    engine.smoke_test(task, trained.adapter)

    def publish() -> AdapterManifest:
        return publish_adapter(
            storage.models,
            order,
            trained.adapter,
            engine=engine.name,
            quantization=trained.quantization,
            fingerprint=base.fingerprint,
            default_instruction=checked.rows.default_instruction,
            metrics=trained.metrics,
            hyperparameters=task.hyperparameters,
            trials=trained.trials,
            record=trained.record.model_copy(update={"files": checked.rows.files}),
        )

    return _patiently(order, publish, task.reporter, task.stop)


def _engine(order: TrainingOrder, reporter: Reporter) -> Engine:
    hyper = order.spec.hyperparameters
    wanted, ranks = order.settings.nproc_per_node, rank_count(order.settings, hyper)
    if ranks == 1 and (visible := os.environ.get("CUDA_VISIBLE_DEVICES")):
        # Before CUDA is asked for. Trainer alone would take all that it sees, each for a micro-batch of its
        # own: batch_size would be a multiple of what was asked for.
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.partition(",")[0]
    engine = create_engine(hyper.engine, order.settings.parallelism)
    if ranks < wanted:
        reporter.note(f"training on {ranks} of {wanted} GPUs, which share a batch_size evenly", ranks=ranks)
    if ranks == 1:
        return engine
    return SeveralRanks(engine, ranks, job_id=order.job_id, log_level=order.log_level)


def _patiently(
    order: TrainingOrder, publish: Callable[[], AdapterManifest], reporter: Reporter, stop: StopSignal
) -> AdapterManifest:
    def say(message: str) -> None:
        reporter.note(message, warn=True)

    def beat() -> None:
        reporter.tick()
        if stop.requested:
            raise TrainingStopped(None)

    return patiently(publish, order.settings.storage_patience_s, say=say, beat=beat)


_TASKS: dict[TaskName, Callable[[TrainingOrder, Reporter, StopSignal], dict[str, Any]]] = {
    "check": check,
    "train": train,
    "publish_checkpoint": publish_checkpoint,
}


def _checkpoints(order: TrainingOrder, storage: Storage) -> Checkpoints:
    return Checkpoints(storage.models, order.tenant, order.job_id, order.settings.keep_checkpoints)


def _scratch(order: TrainingOrder) -> Path:
    folder = order.settings.work_dir / order.job_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _task(
    order: TrainingOrder,
    storage: Storage,
    base: CheckedBase,
    checked: CheckedRows,
    reporter: Reporter,
    stop: StopSignal,
    resume: Resumable | None,
) -> TrainingTask:
    return TrainingTask(
        base=base.folder,
        hyperparameters=checked.hyperparameters,
        settings=order.settings,
        train=checked.train,
        validation=checked.validation,
        pad_id=checked.pad_id,
        scratch=order.settings.work_dir / order.job_id / "trainer",
        resume=resume,
        reporter=reporter,
        stop=stop,
        save_checkpoint=_checkpoints(order, storage).save,
        max_micro_batch=order.max_micro_batch or micro_batch_of(resume, checked.hyperparameters),
        run_name=order.job_id,
    )


if __name__ == "__main__":
    sys.exit(main())
