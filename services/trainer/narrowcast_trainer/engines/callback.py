"""What happens between the trainer's steps: reports, checkpoints, stopping."""

import math
import shutil
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from narrowcast.errors import Unavailable
from narrowcast.training import TrainingMetrics
from narrowcast_trainer.engines.base import TrainingTask
from narrowcast_trainer.engines.best import BestAdapter, Evaluations
from narrowcast_trainer.engines.divergence import FP16_OVERFLOWS, DivergenceWatch
from narrowcast_trainer.ranks import agreed, together

_REPORT_EVERY_S = 1.0
_RECENT_STEPS = 20
"""Steps over which speed and remaining time are measured."""


class JobCallback(TrainerCallback):
    """Ties a Trainer to its job."""

    def __init__(self, task: TrainingTask, *, overflows: bool = False) -> None:
        self.finished = False
        """Whether the last step has been taken, or no further one is worth while."""
        self.best = BestAdapter(task.scratch)
        self.checkpoint: int | None = task.resume.step if task.resume else None
        """Step of the newest complete checkpoint."""
        self._task = task
        hyper = task.hyperparameters
        self._watch = DivergenceWatch(
            learning_rate=hyper.learning_rate * hyper.learning_rate_multiplier,
            overflows_allowed=FP16_OVERFLOWS if overflows else 0,
        )
        self._trainer: Any = None
        self._state: Any = None
        self._started = self._saved_at = time.monotonic()
        self._reported_at = 0.0
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=_RECENT_STEPS + 1)
        self._training_s = 0.0

    def watch(self, trainer: Any) -> None:
        """Take the trainer whose token count is reported."""
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say how long it will be, and take up what a run that is resumed had seen."""
        self._state = state
        if self._task.resume is not None and state.is_world_process_zero:
            self.best.take_from(self._task.resume.folder)
        self._watch.vocabulary = getattr(self._trainer.model.config, "vocab_size", None)
        for entry in state.log_history:
            if "loss" in entry:
                self._watch.take(entry["step"], entry["loss"], entry.get("grad_norm"))
        self._started = self._saved_at = time.monotonic()
        self._recent.append((self._started, state.global_step, 0))
        resumed = f", resumed after step {state.global_step}" if state.global_step else ""
        self._task.reporter.note(f"training {state.max_steps} steps{resumed}", total_steps=state.max_steps)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Choose the epoch's order. The Trainer does as well, but not in a resumed epoch of several ranks.

        There this order lies under three wrappers, and the Trainer looks under two (transformers 5.17,
        accelerate 1.15): the rest of the epoch would have the first epoch's rows.
        """
        self._trainer.order.set_epoch(int(state.epoch))

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show that work moves."""
        self._task.reporter.tick()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show that work moves."""
        self._task.reporter.tick()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if asked to, and decide whether it is time for a checkpoint."""
        self._task.reporter.tick()
        if self._task.resume is not None and state.is_world_process_zero:
            # Read by now, on all ranks: a step is one of all. The disk is to hold one checkpoint, not two.
            shutil.rmtree(self._task.resume.folder, ignore_errors=True)
        now = time.monotonic()
        self._training_s += now - self._recent[-1][0]
        self._recent.append((now, state.global_step, self._trainer.trained_tokens))
        self.finished = state.global_step >= state.max_steps
        # A checkpoint between an epoch's last step and its validation would lack that.
        if not self._validation_follows(args, state):
            self._stop_or_save(control)

    def _validation_follows(self, args: Any, state: Any) -> bool:
        """Whether an epoch has ended, and there is something to validate.

        The first step of a warm-up has a rate of 0. An epoch of that one step leaves the base as it is, and
        where later ones make it worse, an adapter that does nothing would be the best.
        """
        untrained = state.global_step == 1 and args.warmup_steps > 0
        return bool(self._task.validation) and float(state.epoch).is_integer() and not untrained

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the weights if they are the best yet; stop if better ones are not to be expected."""
        evaluations = Evaluations.of(state.log_history)
        if evaluations.last_is_best:
            self.best.keep(self._trainer.model)
        patience = self._task.hyperparameters.early_stopping_patience
        if not self.finished and evaluations.best and evaluations.exhausted(patience):
            step, loss = evaluations.best
            self._task.reporter.note(
                f"stopped early: validation loss is no better than {loss:.4f}, after step {step},"
                f" for {patience} {'epoch' if patience == 1 else 'epochs'}"
            )
            self.finished = control.should_training_stop = True
        if agreed(self._should_prune(evaluations)):
            self._task.reporter.note("given up: other trials had a lower validation loss by now")
            self.finished = control.should_training_stop = True
        self._stop_or_save(control)

    def _should_prune(self, evaluations: Evaluations) -> bool:
        losses = [loss for _, loss in evaluations.losses]
        return self._task.should_prune is not None and self._task.should_prune(losses, last=self.finished)

    def _stop_or_save(self, control: Any) -> None:
        stop = self._task.stop
        if self.finished:
            return
        due = time.monotonic() - self._saved_at >= self._task.settings.checkpoint_every_s
        requested, keep, due = agreed((stop.requested, stop.keep, due))
        if requested:
            stop.requested = True
            control.should_training_stop = True
            control.should_save = keep
        elif due:
            control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Skip the validation that a stop in the middle of an epoch would otherwise run into."""
        if not self._validation_follows(args, state):
            control.should_evaluate = False

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Report a step, at most once a second.

        Raises:
            JobFailed: ``training_diverged``.
        """
        logs: dict[str, float] = more["logs"]
        if "eval_loss" in logs:
            self._restart_clock(state)
            if not math.isfinite(logs["eval_loss"]):
                self._watch.take(state.global_step, logs["eval_loss"])
            self._task.reporter.metrics(self._metrics(state, valid_loss=logs["eval_loss"]))
        if "loss" not in logs:
            return
        self._watch.take(state.global_step, logs["loss"], logs.get("grad_norm"))
        now = time.monotonic()
        if now - self._reported_at < _REPORT_EVERY_S and not self.finished:
            return
        self._reported_at = now
        self._task.reporter.metrics(
            self._metrics(
                state,
                train_loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                grad_norm=logs.get("grad_norm"),
            )
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Judge a run that was too short to be judged on the way.

        Raises:
            JobFailed: ``training_diverged``.
        """
        if self.finished:
            self._watch.conclude(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Upload the checkpoint that the trainer has just written, all ranks' parts of it."""
        together()  # they are written by then
        if state.is_world_process_zero:
            self._upload(Path(args.output_dir) / f"checkpoint-{state.global_step}", state)
        self._saved_at = time.monotonic()
        self._restart_clock(state)

    def _upload(self, folder: Path, state: Any) -> None:
        self.best.put_into(folder)
        earlier = self._task.resume.seconds if self._task.resume else 0.0
        try:
            self._task.save_checkpoint(folder, state.global_step, earlier + time.monotonic() - self._started)
        except Unavailable as error:
            # The training is worth more than this checkpoint; the next one may go through.
            self._task.reporter.note(f"a checkpoint was not saved: {error.message}", warn=True)
        else:
            self.checkpoint = state.global_step
            self._task.reporter.note(f"checkpoint at step {state.global_step}", step=state.global_step)
        shutil.rmtree(folder, ignore_errors=True)

    def summary(self) -> dict[str, float]:
        """Return the losses, of the last epoch and of the best evaluation, and the speed."""
        history = self._state.log_history
        last_epoch = self._state.epoch - 1
        losses = [entry["loss"] for entry in history if "loss" in entry and entry["epoch"] > last_epoch]
        metrics = {"steps": float(self._state.global_step)}
        if losses:
            metrics["train_loss"] = sum(losses) / len(losses)
        best = Evaluations.of(history).best
        if best is not None:
            metrics["best_step"], metrics["valid_loss"] = float(best[0]), best[1]
        if self._training_s > 0:
            metrics["tokens_per_s"] = self._trainer.trained_tokens / self._training_s
        return metrics

    def _metrics(self, state: Any, **measured: float | None) -> TrainingMetrics:
        (start, first, tokens_before), (end, last, tokens) = self._recent[0], self._recent[-1]
        seconds = end - start
        known = last > first and seconds > 0
        return TrainingMetrics(
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=state.epoch,
            tokens_per_s=round((tokens - tokens_before) / seconds, 1) if known else None,
            eta_s=round((state.max_steps - last) * seconds / (last - first), 1) if known else None,
            gpu_memory_bytes=int(torch.cuda.max_memory_reserved()) if torch.cuda.is_available() else None,
            **measured,
        )

    def _restart_clock(self, state: Any) -> None:
        # Validation and uploads are not steps: measuring speed begins anew after them.
        self._recent.clear()
        self._recent.append((time.monotonic(), state.global_step, self._trainer.trained_tokens))
