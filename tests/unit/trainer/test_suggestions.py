"""What a sweep tries next depends on what it has tried, and on nothing else."""

import math
from typing import Any

import pytest

from narrowcast.sweeps import Trial, best_trial
from narrowcast.training import Hyperparameters
from narrowcast_trainer.suggestions import should_prune, suggest

SPACE = {
    "learning_rate": [1e-5, 1e-3],
    "rank": [8, 16, 32],
    "dropout": [0, 0.2],
    "batch_size": [4, 8],
    "n_epochs": [1, 2],
    "weight_decay": [0, 0.1],
}


def _hyper(**changes: Any) -> Hyperparameters:
    return Hyperparameters.model_validate(
        {"rank": 32, "n_epochs": 2, "n_trials": 12, "sweep": SPACE} | changes
    )


def _swept(hyper: Hyperparameters, trials: int, given: list[Trial] | None = None) -> list[Trial]:
    """A sweep whose loss is least at a learning rate of 1e-4; every fourth trial fails."""
    done = list(given or [])
    while len(done) < trials:
        values = suggest(hyper, done)
        assert values is not None
        loss = abs(values.get("learning_rate", 1e-4) - 1e-4) * 1000 + values["rank"] / 1000
        failed = len(done) % 4 == 3
        done.append(
            Trial(
                number=len(done) + 1,
                state="failed" if failed else "complete",
                hyperparameters=values,
                valid_loss=None if failed else loss,
                valid_losses=() if failed else (loss + 1, loss),
            )
        )
    return done


def test_the_first_trial_is_the_jobs_own() -> None:
    own = {"learning_rate": 2e-4, "rank": 32, "dropout": 0, "batch_size": 8, "n_epochs": 2}
    assert suggest(_hyper(), []) == own | {"weight_decay": 0.01}
    outside = suggest(_hyper(learning_rate=0.1), [])
    assert outside is not None
    assert 1e-5 <= outside["learning_rate"] <= 1e-3


def test_the_same_trials_give_the_same_next_one() -> None:
    whole = _swept(_hyper(), 12)
    for finished in (1, 5, 11):
        again = [Trial.model_validate_json(trial.model_dump_json()) for trial in whole[:finished]]
        assert _swept(_hyper(), 12, again) == whole
    assert _swept(_hyper(seed=1), 12)[1:] != whole[1:]
    different = {tuple(trial.hyperparameters.items()) for trial in whole}
    assert len(different) == len(whole)
    for trial in whole:
        values = _hyper().of_trial(trial.hyperparameters)
        assert values.rank in SPACE["rank"]
        assert values.alpha == values.rank
        assert values.n_trials == 1
        assert 1e-5 <= values.learning_rate <= 1e-3


def test_a_trial_above_the_median_is_pruned_once_four_are_complete() -> None:
    hyper = _hyper()
    complete = [trial for trial in _swept(hyper, 8) if trial.state == "complete"]
    assert len(complete) == 6
    values = complete[0].hyperparameters
    assert should_prune(hyper, complete, values, [9.0])
    assert not should_prune(hyper, complete, values, [0.5])
    # Its best loss counts, not its last.
    assert not should_prune(hyper, complete, values, [0.0001, 9.0])
    assert not should_prune(hyper, complete[:3], values, [9.0])


def test_the_best_is_complete_and_the_earlier_of_two() -> None:
    def trial(number: int, state: Any, loss: float | None) -> Trial:
        return Trial(number=number, state=state, hyperparameters={}, valid_loss=loss)

    trials = [trial(1, "complete", 2.0), trial(2, "pruned", 1.0), trial(3, "complete", 2.0)]
    assert best_trial(trials) is trials[0]
    assert best_trial([trial(1, "failed", None)]) is None


def test_the_default_space_lies_around_the_jobs_own_values() -> None:
    sweep = Hyperparameters(n_trials=2, rank=64, learning_rate=2e-4).sweep
    assert sweep is not None
    assert sweep.learning_rate == pytest.approx((5e-5, 8e-4))
    assert sweep.rank == (16, 32, 64)
    assert sweep.dropout == (0, 0.1)
    small = Hyperparameters(n_trials=2, rank=8)
    assert small.sweep is not None
    assert small.sweep.rank == (8,)
    tiny = Hyperparameters(n_trials=2, rank=4, learning_rate=0.9)
    assert tiny.sweep is not None
    assert tiny.sweep.rank == (4,)
    odd = Hyperparameters(n_trials=2, rank=40, alpha=6)
    assert odd.sweep is not None
    assert odd.sweep.rank == (20, 40), "at 10 alpha would be 1.5"


def test_every_trial_has_the_scale_of_the_job() -> None:
    asked = {"rank": 64, "alpha": 16, "n_trials": 2, "sweep": {"rank": [4, 32, 128]}}
    hyper = Hyperparameters.model_validate(asked)
    trials = [hyper.of_trial({"rank": rank}) for rank in (4, 32, 128)]
    assert [(trial.rank, trial.alpha) for trial in trials] == [(4, 1), (32, 8), (128, 32)]
    with pytest.raises(ValueError, match=r"sweep\.rank 1, 2 alpha would be no whole number"):
        Hyperparameters.model_validate(asked | {"sweep": {"rank": [1, 2, 64]}})


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_trials": 1, "sweep": {"rank": [8]}},
        {"n_trials": 51},
        {"n_trials": 2, "sweep": {}},
        {"n_trials": 2, "sweep": {"rank": []}},
        {"n_trials": 2, "sweep": {"rank": [8, 8]}},
        {"n_trials": 2, "sweep": {"learning_rate": [1e-3, 1e-4]}},
        {"n_trials": 2, "sweep": {"learning_rate": [0, 1e-4]}},
        {"n_trials": 2, "sweep": {"alpha": [8]}},
        {"n_trials": 2, "rank": 8, "alpha": 1024, "sweep": {"rank": [8, 64]}},
    ],
)
def test_what_cannot_be_swept_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Hyperparameters.model_validate(wrong)


@pytest.mark.parametrize("space", [{"rank": [16, 32, 64]}, {"rank": [16, 32, 64], "batch_size": [4, 8]}])
def test_no_combination_is_tried_twice(space: dict[str, list[int]]) -> None:
    """One seed for all trials: it would end as it did before, for the same hours."""
    combinations = math.prod(map(len, space.values()))
    for seed in range(10):
        hyper = _hyper(sweep=space, seed=seed)
        trials = _swept(hyper, combinations)
        assert len({tuple(trial.hyperparameters.items()) for trial in trials}) == combinations
        assert suggest(hyper, trials) is None


def test_what_fails_is_kept_away_from() -> None:
    """Where the loss falls with the rate until it diverges, the best is at the edge, and so are failures."""
    failed = 0
    for seed in range(20):
        hyper = _hyper(sweep={"learning_rate": [1e-5, 1e-2]}, learning_rate=1e-4, seed=seed)
        trials: list[Trial] = []
        while len(trials) < 12:
            values = suggest(hyper, trials)
            assert values is not None
            rate = values["learning_rate"]
            loss = 2 - 0.3 * math.log10(rate / 1e-5)
            ended: dict[str, Any] = (
                {"state": "failed"}
                if rate > 5e-4
                else {"state": "complete", "valid_loss": loss, "valid_losses": (loss,)}
            )
            trials.append(Trial(number=len(trials) + 1, hyperparameters=values, **ended))
        failed += sum(trial.state == "failed" for trial in trials)
    assert failed < 20 * 12 / 2
