"""What a sweep tries next and what it gives up, by Optuna, as functions of what has been tried.

A study is built anew for every question. So a sweep that was killed and resumed asks what an
uninterrupted one would have asked, and gets the same answer: nothing but its finished trials has
to be kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from narrowcast.sweeps import SearchSpace, Trial
from narrowcast.training import Hyperparameters

_STARTUP_TRIALS: Final = 4
"""Drawn at random before the sampler models anything, and run to their end before any is pruned.
Optuna's own 10 and 5 would leave a small sweep no trial that learns from the others."""
_STATES: Final = {
    "complete": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "failed": optuna.trial.TrialState.FAIL,
}
_LOGARITHMIC: Final = {"learning_rate"}


def suggest(hyper: Hyperparameters, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the values of the next trial.

    The first one has the job's own values if the space holds them, so that the sweep is never worse
    than the training that it takes the place of; TPE (Bergstra et al. 2011) proposes the others.

    Args:
        hyper: of the job, with its search space and its seed.
        trials: the finished ones, oldest first.
    """
    space = _space(hyper)
    own = {name: getattr(hyper, name) for name in space}
    if not trials and all(_holds(space[name], value) for name, value in own.items()):
        return own
    sampler = optuna.samplers.TPESampler(n_startup_trials=_STARTUP_TRIALS, seed=hyper.seed + len(trials))
    return dict(_study(space, trials, sampler).ask(space).params)


def should_prune(
    hyper: Hyperparameters, trials: Sequence[Trial], values: Mapping[str, Any], losses: Sequence[float]
) -> bool:
    """Whether a trial is not worth its remaining epochs: its best loss is above the others' median.

    Args:
        hyper: of the job.
        trials: the finished ones.
        values: of the running one.
        losses: its validation losses so far, one an epoch.
    """
    space = _space(hyper)
    study = _study(space, trials, optuna.samplers.RandomSampler(seed=0))
    running = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        params=dict(values),
        distributions=space,
        intermediate_values=dict(enumerate(losses)),
    )
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS)
    return pruner.prune(study, running)


def _space(hyper: Hyperparameters) -> dict[str, BaseDistribution]:
    space = hyper.sweep or SearchSpace()
    varied = {name: value for name, value in space if value is not None}
    return {name: _distribution(name, value) for name, value in varied.items()}


def _distribution(name: str, value: tuple[Any, ...]) -> BaseDistribution:
    if isinstance(value[0], float):
        low, high = value
        return FloatDistribution(low, high, log=name in _LOGARITHMIC)
    return CategoricalDistribution(value)


def _holds(distribution: BaseDistribution, value: object) -> bool:
    if isinstance(distribution, FloatDistribution):
        return isinstance(value, float) and distribution.low <= value <= distribution.high
    return isinstance(distribution, CategoricalDistribution) and value in distribution.choices


def _study(
    space: Mapping[str, BaseDistribution], trials: Sequence[Trial], sampler: optuna.samplers.BaseSampler
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler, direction="minimize")
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(
                state=_STATES[trial.state],
                value=trial.valid_loss if trial.state == "complete" else None,
                params=trial.hyperparameters,
                distributions=dict(space),
                intermediate_values=dict(enumerate(trial.valid_losses)),
            )
        )
    return study
