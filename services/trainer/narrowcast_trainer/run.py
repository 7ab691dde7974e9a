"""The training process: ``python -m narrowcast_trainer.run``, started by the worker, never by hand.

The order comes over standard input, events go out over ``--events``; see :mod:`.protocol`.
"""

import argparse
import errno
import shutil
import sys
from pathlib import Path
from typing import Any

from narrowcast import logs
from narrowcast.adapters import base_fingerprint
from narrowcast.errors import InvalidInput, JobFailed, NarrowcastError, Unavailable
from narrowcast.jobs.stopping import die_with
from narrowcast.storage import Storage
from narrowcast.sweeps import best_trial
from narrowcast.training import TrainingSpec
from narrowcast_trainer.checkpoints import Checkpoints, newest_losses
from narrowcast_trainer.data import Rows, pad_id, read_rows, stop_ids, token_count, tokenize
from narrowcast_trainer.engines import create_engine
from narrowcast_trainer.engines.base import TrainingStopped, TrainingTask
from narrowcast_trainer.memory import is_out_of_memory
from narrowcast_trainer.protocol import OUT_OF_MEMORY, Completed, Failed, Stopped, TrainingOrder
from narrowcast_trainer.publish import publish_adapter, result_of
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.stop import StopSignal
from narrowcast_trainer.sweep import Sweep, adapter_in, check_sweep

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
            if order.publish_checkpoint:
                result = publish_checkpoint(order, reporter)
            else:
                result = train(order, reporter, stop)
            reporter.send(Completed(result=result))
        except TrainingStopped as stopped:
            reporter.send(Stopped(step=stopped.step))
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must hear of it
            _log.error("training_failed", exc_info=error)
            reporter.send(reason_of(error))
            return 1
    return 0


def train(order: TrainingOrder, reporter: Reporter, stop: StopSignal) -> dict[str, Any]:
    """Check, train, try out and publish what was ordered; return the job's result."""
    hyperparameters = order.spec.hyperparameters
    storage = Storage(order.storage)
    base = base_folder(order.settings.models_dir, order.spec.base_model)
    fingerprint = base_fingerprint(base)
    check_served(order.spec, fingerprint)
    rows = read_rows(storage.data, order)
    check_sweep(hyperparameters, rows)
    engine = create_engine(hyperparameters.engine)
    reporter.note(f"training {order.spec.base_model} with the {engine.name} engine", engine=engine.name)
    task = _prepare(order, storage, base, rows, reporter, stop)
    if stop.requested:
        raise TrainingStopped(task.resume.step if task.resume else None)
    trained = engine.train(task) if hyperparameters.n_trials == 1 else Sweep(engine, task).run()
    reporter.note("trying the adapter out before it is published")
    engine.smoke_test(task, trained.adapter)
    best = best_trial(trained.trials)
    if best is not None:
        hyperparameters = hyperparameters.of_trial(best.hyperparameters)
    tokens = token_count(task.train) * hyperparameters.n_epochs
    manifest = publish_adapter(
        storage.models,
        order,
        trained.adapter,
        engine=engine.name,
        quantization=trained.quantization,
        fingerprint=fingerprint,
        default_instruction=rows.default_instruction,
        metrics=trained.metrics | {"trained_tokens": tokens},
        hyperparameters=hyperparameters,
        trials=trained.trials,
    )
    reporter.note(f"adapter {manifest.id} is published", adapter=manifest.id)
    return result_of(manifest)


def publish_checkpoint(order: TrainingOrder, reporter: Reporter) -> dict[str, Any]:
    """Publish the adapter of the job's newest whole checkpoint; return the job's result.

    Raises:
        JobFailed: ``no_checkpoint``, or what :func:`publish_adapter` finds wrong with it.
    """
    storage = Storage(order.storage)
    base = base_folder(order.settings.models_dir, order.spec.base_model)
    rows = read_rows(storage.data, order)
    found = _checkpoints(order, storage).fetch_newest(order.settings.work_dir / order.job_id / "kept")
    if found is None:
        raise JobFailed("the job has no complete checkpoint", code="no_checkpoint")
    manifest = publish_adapter(
        storage.models,
        order,
        adapter_in(found.folder),
        engine=create_engine(order.spec.hyperparameters.engine).name,
        fingerprint=base_fingerprint(base),
        default_instruction=rows.default_instruction,
        metrics={"steps": float(found.step), "seconds": found.seconds, **newest_losses(found.folder)},
    )
    reporter.note(f"adapter {manifest.id} is published from a checkpoint", adapter=manifest.id)
    return result_of(manifest)


def _checkpoints(order: TrainingOrder, storage: Storage) -> Checkpoints:
    return Checkpoints(storage.models, order.tenant, order.job_id, order.settings.keep_checkpoints)


def _prepare(
    order: TrainingOrder, storage: Storage, base: Path, rows: Rows, reporter: Reporter, stop: StopSignal
) -> TrainingTask:
    from transformers import AutoTokenizer

    hyperparameters, settings = order.spec.hyperparameters, order.settings
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    stops = stop_ids(tokenizer, _generation_config(base))
    limits: dict[str, Any] = {"max_length": hyperparameters.max_length, "stop_ids": stops}
    examples = tokenize(rows.train, tokenizer, **limits, split="train")
    validation = tokenize(rows.validation, tokenizer, **limits, split="validation")
    tokens = token_count(examples)
    reporter.note(f"{len(examples)} rows, {tokens} tokens", rows=len(examples), tokens=tokens)

    checkpoints = _checkpoints(order, storage)
    scratch = settings.work_dir / order.job_id
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return TrainingTask(
        base=base,
        hyperparameters=hyperparameters,
        settings=settings,
        train=examples,
        validation=validation,
        pad_id=pad_id(tokenizer, stops),
        scratch=scratch / "trainer",
        resume=checkpoints.fetch_newest(scratch / "resume"),
        reporter=reporter,
        stop=stop,
        save_checkpoint=checkpoints.save,
        most_rows_at_once=order.most_rows_at_once,
        run_name=order.job_id,
    )


def base_folder(models_dir: Path, name: str) -> Path:
    """Return the folder of a base model.

    Raises:
        InvalidInput: this node has no such base model.
    """
    folder = (models_dir / name).resolve()
    inside = folder.is_relative_to(models_dir.resolve())
    if not inside or not (folder / "config.json").is_file():
        raise InvalidInput(f"this trainer has no base model {name}", code="unknown_base_model", param="model")
    return folder


def check_served(spec: TrainingSpec, fingerprint: str) -> None:
    """Check that the adapter will fit the base that is served.

    Raises:
        JobFailed: ``base_not_served``.
    """
    if spec.served_fingerprints and fingerprint not in spec.served_fingerprints:
        raise JobFailed(
            f"this trainer's {spec.base_model} is not the one that is served: its fingerprint is"
            f" {fingerprint[:12]}…, the server's {spec.served_fingerprints[0][:12]}…; fetch the base anew",
            code="base_not_served",
            param="model",
        )


def reason_of(error: Exception) -> Failed:
    """Return what the worker is told of an error; foreign errors' texts stay here."""
    if isinstance(error, NarrowcastError):
        retry = isinstance(error, Unavailable)
        return Failed(code=error.code, message=error.message, param=error.param, retry=retry)
    kind = type(error).__name__
    if is_out_of_memory(error):
        return Failed(code="out_of_memory", message=OUT_OF_MEMORY)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Failed(code="disk_full", message="the trainer's work_dir is full; free some space")
    # A RuntimeError may be the device's fault, so the job may fare better next time.
    retry = isinstance(error, RuntimeError | OSError)
    return Failed(code="training_crashed", message=f"the training stopped with {kind}", retry=retry)


def _generation_config(base: Path) -> Any:
    from transformers import GenerationConfig

    if not (base / "generation_config.json").is_file():
        return None
    return GenerationConfig.from_pretrained(base, local_files_only=True)


if __name__ == "__main__":
    sys.exit(main())
