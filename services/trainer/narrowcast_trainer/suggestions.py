"""What a sweep tries next and what it gives up, by Optuna, as functions of what has been tried.

A study is built anew for every question. So a sweep that was killed and resumed asks what an
uninterrupted one would have asked, and gets the same answer: nothing but its finished trials has
to be kept.
"""

import itertools
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
    # Optuna's own FAIL would be ignored: out of memory, or diverging, is worse than anything measured.
    "failed": optuna.trial.TrialState.PRUNED,
}
_MOST_QUESTIONS: Final = 20
_LOGARITHMIC: Final = {"learning_rate"}


def suggest(hyper: Hyperparameters, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """Return the values of the next trial; None if all there are have been tried.

    The first one has the job's own values if the space holds them, so that the sweep is never worse
    than the training that it takes the place of; TPE (Bergstra et al. 2011) proposes the others. None is
    tried twice: of one seed it would give the same again.

    Args:
        hyper: of the job, with its search space and its seed.
        trials: the finished ones, oldest first.
    """
    space = _space(hyper)
    own = {name: getattr(hyper, name) for name in space}
    if not trials and all(_holds(space[name], value) for name, value in own.items()):
        return own
    sampler = optuna.samplers.TPESampler(n_startup_trials=_STARTUP_TRIALS, seed=hyper.seed + len(trials))
    study = _study(space, trials, sampler)
    tried = [trial.hyperparameters for trial in trials]
    for _ in range(_MOST_QUESTIONS):
        if (values := dict(study.ask(space).params)) not in tried:
            return values
    # TPE insists on its best. Bounds hold enough others, so there are only choices here.
    choices = [one.choices for one in space.values() if isinstance(one, CategoricalDistribution)]
    left = [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]
    return next((values for values in left if values not in tried), None)


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
                # Those of a failed one would rank it among the pruned.
                intermediate_values={} if trial.state == "failed" else dict(enumerate(trial.valid_losses)),
            )
        )
    return study
