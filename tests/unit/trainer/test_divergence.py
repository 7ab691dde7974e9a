"""A training that diverges is stopped; one that is only noisy is not."""

import math
import random

import pytest

from narrowcast.errors import JobFailed
from narrowcast_trainer.engines.divergence import FP16_OVERFLOWS, DivergenceWatch


def _watch(overflows: int = 0) -> DivergenceWatch:
    return DivergenceWatch(learning_rate=2e-4, overflows_allowed=overflows)


def _feed(watch: DivergenceWatch, losses: list[float], start: int = 1) -> int | None:
    """Return the step at which it was stopped."""
    for step, loss in enumerate(losses, start):
        try:
            watch.take(step, loss, 1.0)
        except JobFailed as failed:
            stopped = failed
        else:
            continue
        assert stopped.code == "training_diverged"
        assert f"step {step}:" in stopped.message
        assert "learning_rate (it was 0.0002)" in stopped.message
        return step
    return None


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_at_once(loss: float) -> None:
    assert _feed(_watch(), [2.0, 1.9, loss]) == 3


def test_the_first_loss_is_the_base_s_and_no_fault_of_the_learning_rate() -> None:
    with pytest.raises(JobFailed, match="before anything has been trained") as failed:
        _watch().take(1, math.nan, math.nan)
    assert (failed.value.code, failed.value.param) == ("base_not_finite", "model")


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_so_does_a_gradient(norm: float) -> None:
    watch = _watch()
    watch.take(1, 2.0, 0.5)
    with pytest.raises(JobFailed, match="gradient"):
        watch.take(2, 2.0, norm)


def test_fp16_s_loss_scale_may_overflow_for_as_long_as_it_can_be_halved() -> None:
    watch = _watch(FP16_OVERFLOWS)
    for step in range(FP16_OVERFLOWS):
        watch.take(step, 2.0, math.inf)
    watch.take(20, 2.0, 1.0)
    for step in range(FP16_OVERFLOWS):
        watch.take(step, 2.0, math.inf)
    with pytest.raises(JobFailed):
        watch.take(99, 2.0, math.inf)


def test_a_lasting_rise_stops_within_a_window() -> None:
    noise = random.Random(1)
    falling = [2.0 * 0.97**step + noise.gauss(0, 0.05) for step in range(60)]
    risen = [4.0 + noise.gauss(0, 0.05) for _ in range(20)]
    assert _feed(_watch(), falling + risen) in range(62, 72)


@pytest.mark.parametrize(
    "losses",
    [
        [3.0, 30.0, 76.0, 15.0, 22.0, 41.0, 18.0, 33.0, 60.0, 25.0, 30.0, 28.0],
        [3.0, 15.0, 19.0, 13.0],  # ended before a window was full
        # Seen with SmolLM2: ln 49,152 is 10.8, and a model that says so of everything has no gradient.
        [1.3, 2.2, 17.1, 10.8, 10.8, 10.8, 19.0, 10.8, 10.8, 10.8, 10.8, 10.8],
    ],
)
def test_what_diverges_from_its_first_steps_on_does_not_pass_for_noise(losses: list[float]) -> None:
    watch = _watch()
    watch.vocabulary = 49_152
    stopped = _feed(watch, losses)
    if stopped is None:
        with pytest.raises(JobFailed, match=r"rose from 3\.00 to 14\.00, which is") as failed:
            watch.conclude(len(losses))
        assert failed.value.code == "training_diverged"
    else:
        assert stopped == 10


@pytest.mark.parametrize("easy", [1, 4])
def test_an_easy_first_batch_is_no_measure(easy: int) -> None:
    """Rows of one length go together, and short ones may be easy."""
    noise = random.Random(1)
    losses = [0.8] * easy + [2.3 * 0.995**step + noise.gauss(0, 0.1) for step in range(60)]
    watch = _watch()
    watch.vocabulary = 49_152
    assert _feed(watch, losses) is None
    watch.conclude(len(losses))


def test_a_base_of_random_weights_may_stay_at_a_guess() -> None:
    watch = _watch()
    watch.vocabulary = 49_152
    noise = random.Random(1)
    assert _feed(watch, [math.log(49_152) + noise.gauss(0.2, 0.1) for _ in range(30)]) is None
    watch.conclude(30)


def test_a_rise_after_a_resumption_is_judged_against_what_was_before() -> None:
    whole, resumed = _watch(), _watch()
    before, after = [1.0] * 15, [1.0, 1.0, *[3.0] * 12]
    assert _feed(whole, before) is None
    assert _feed(resumed, before) is None  # shown again from the checkpoint
    assert _feed(resumed, after, 16) == _feed(whole, after, 16) is not None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("deviation", [0.05, 0.3, 1.0])
def test_noise_alone_never_stops(seed: int, deviation: float) -> None:
    noise = random.Random(seed)
    assert _feed(_watch(), [1.5 + noise.gauss(0, deviation) for _ in range(400)]) is None


def test_spikes_and_a_slow_start_never_stop() -> None:
    spikes = [8.0 if step % 25 in {3, 4, 5, 6} else 1.0 for step in range(300)]
    assert _feed(_watch(), spikes) is None
    assert _feed(_watch(), [2.0 + 0.9 * min(step, 30) / 30 for step in range(100)]) is None


def _of_two_kinds(noise: random.Random, hard: float, gap: float, steps: int) -> list[float]:
    return [0.4 + gap * (noise.random() < hard) + noise.gauss(0, 0.08) for _ in range(steps)]


@pytest.mark.parametrize("hard", [0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("gap", [1.2, 2.0, 6.0])
def test_batches_of_two_kinds_never_stop(hard: float, gap: float) -> None:
    """Templates and free text: each batch is of one kind, as rows of one length go together."""
    for seed in range(20):
        assert _feed(_watch(), _of_two_kinds(random.Random(seed), hard, gap, 500)) is None


@pytest.mark.parametrize("seed", [2, 8, 11])
def test_a_few_hard_batches_in_one_window_do_not_stop_a_long_training(seed: int) -> None:
    """Of each twentieth being hard, five of ten in a row are to be expected once in some thousand steps."""
    noise = random.Random(seed)
    losses = [
        noise.gauss(2.6, 0.3) if noise.random() < 0.05 else noise.gauss(0.4, 0.1) for _ in range(10_000)
    ]
    assert _feed(_watch(), losses) is None


def test_what_diverges_amid_batches_of_two_kinds_stops() -> None:
    noise = random.Random(1)
    losses = _of_two_kinds(noise, 0.3, 1.4, 20) + [7 + noise.gauss(0, 0.3) for _ in range(30)]
    assert _feed(_watch(), losses) in range(22, 33)
