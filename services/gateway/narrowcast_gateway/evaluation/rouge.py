"""ROUGE of generated reports against the doctors' own, right for Cyrillic.

Lin, "ROUGE: a Package for Automatic Evaluation of Summaries" (2004), as computed by Google's
``rouge_score`` with :class:`~narrowcast_gateway.evaluation.tokenization.RussianTokenizer`.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

METRICS: Final = ("rouge1", "rouge2", "rougeL", "rougeLsum")

_RESAMPLES: Final = 1000  # as in the original Perl script and in rouge_score's own aggregator
_CONFIDENCE: Final = 0.95
_SEED: Final = 20040725  # any fixed number: the same texts always give the same interval


class RougeScore(BaseModel):
    """One metric over all examples, as fractions from 0 to 1."""

    f1: float = Field(ge=0, le=1)
    """Mean of the examples' F1, not the F1 of the mean precision and recall."""
    precision: float = Field(ge=0, le=1)
    recall: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    """Lower bound of the 95 % bootstrap interval of the mean F1."""
    high: float = Field(ge=0, le=1)


def score(
    references: Sequence[str], candidates: Sequence[str], beat: Callable[[], None] | None = None
) -> dict[str, RougeScore]:
    """Return each of ``METRICS`` as means over the examples.

    An empty candidate scores 0. A text of a single token has no bigram, so its ROUGE-2 is 0 even against
    itself. ROUGE-Lsum compares sentence by sentence.

    Args:
        references: the texts to be met.
        candidates: one for each.
        beat: called before each example, some sixty of which a core scores a second; may raise.

    Raises:
        ValueError: there is nothing to compare, or not one candidate for each reference.
    """
    if len(references) != len(candidates):
        raise ValueError(f"{len(references)} references but {len(candidates)} candidates")
    if not references:
        raise ValueError("no examples to score")
    measures = _measure(references, candidates, beat or (lambda: None))
    low, high = _bootstrap(measures[:, :, 2])
    means = measures.mean(axis=0)
    return {
        metric: RougeScore(
            precision=_fraction(means[index, 0]),
            recall=_fraction(means[index, 1]),
            f1=_fraction(means[index, 2]),
            low=_fraction(low[index]),
            high=_fraction(high[index]),
        )
        for index, metric in enumerate(METRICS)
    }


def _measure(
    references: Sequence[str], candidates: Sequence[str], beat: Callable[[], None]
) -> NDArray[np.float64]:
    """Return precision, recall and F1 of every example and metric; shape (examples, metrics, 3)."""
    # Imported here because rouge_score pulls in all of NLTK, seconds that the API process,
    # which needs only RougeScore for its schemas, must not spend at every start.
    from rouge_score.rouge_scorer import RougeScorer

    from narrowcast_gateway.evaluation.tokenization import RussianTokenizer, sentences

    scorer = RougeScorer(METRICS, tokenizer=RussianTokenizer())
    rows = []
    for reference, candidate in zip(references, candidates, strict=True):
        beat()
        # One sentence a line, which is what ROUGE-Lsum splits on; the other metrics do not see line breaks.
        scores = scorer.score("\n".join(sentences(reference)), "\n".join(sentences(candidate)))
        rows.append([scores[metric] for metric in METRICS])
    return np.asarray(rows, dtype=np.float64)


def _bootstrap(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the percentile bootstrap bounds of each column's mean; ``values`` is (examples, metrics).

    ``rouge_score.scoring.BootstrapAggregator`` does the same with numpy's global seed, which would make
    figures differ from run to run or change the random numbers of everything else in the process.
    """
    generator = np.random.default_rng(_SEED)
    examples = len(values)
    means = np.stack(
        [values[generator.integers(examples, size=examples)].mean(axis=0) for _ in range(_RESAMPLES)]
    )
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.percentile(means, (tail, 100 - tail), axis=0)
    return low, high


def _fraction(value: float) -> float:
    # A mean of ones can come out a rounding error above 1.
    return min(max(float(value), 0.0), 1.0)
