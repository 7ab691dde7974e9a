import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from narrowcast_gateway.evaluation.rouge import METRICS, RougeScore, score
from narrowcast_gateway.evaluation.tokenization import RussianTokenizer

WORDS = [
    "грыжа",
    "диска",
    "L4-L5",
    "не",
    "изменён",
    "объём",
    "2,5",
    "мм.",
    "Th12.",
    "норма",
    "\n",
    "МРТ",
    "ok",
]
texts = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join) | st.text(max_size=60)


def one(reference: str, candidate: str) -> dict[str, RougeScore]:
    return score([reference], [candidate])


def test_identical_cyrillic_scores_one() -> None:
    text = "Срединные структуры не смещены. Желудочки мозга не расширены."
    result = one(text, text)
    assert tuple(result) == METRICS
    assert all(value == RougeScore(f1=1, precision=1, recall=1, low=1, high=1) for value in result.values())


def test_different_finding_with_the_same_figures_is_not_the_same() -> None:
    result = one("Норма L4-L5 12 мм", "Грыжа L4-L5 12 мм")
    assert result["rouge1"].f1 == pytest.approx(4 / 5)
    assert result["rouge2"].f1 == pytest.approx(3 / 4)
    assert result["rougeL"].f1 == pytest.approx(4 / 5)
    assert result["rougeLsum"].f1 == pytest.approx(4 / 5)


def test_hand_computed_precision_and_recall() -> None:
    # Shared words: диск, снижен, грыжа (each once), so 3 of 4 candidate and 3 of 6 reference words.
    # Shared pairs: «диск снижен» alone, of 3 and of 5. Longest common subsequence: «диск снижен грыжа».
    result = one("диск умеренно снижен диск снижен грыжа", "диск снижен канал грыжа")
    assert (result["rouge1"].precision, result["rouge1"].recall) == (3 / 4, 3 / 6)
    assert result["rouge1"].f1 == pytest.approx(2 * 3 / (4 + 6))
    assert result["rouge2"].precision == pytest.approx(1 / 3)
    assert result["rouge2"].recall == pytest.approx(1 / 5)
    assert result["rougeL"].f1 == pytest.approx(2 * 3 / (4 + 6))


def test_swapped_sentences_cost_rouge_l_but_not_lsum() -> None:
    result = one("Грыжа диска 5 мм. Желудочки не расширены.", "Желудочки не расширены. Грыжа диска 5 мм.")
    assert result["rouge1"].f1 == 1
    assert result["rougeLsum"].f1 == 1
    # The longer sentence alone, 4 of 7 words, is the longest common subsequence.
    assert result["rougeL"].f1 == pytest.approx(4 / 7)


def test_sentences_are_found_without_line_breaks() -> None:
    lines = "Киста 3 см.\nКонтуры ровные.\nКонус на уровне Th12.\nСигнал не изменён."
    swapped = "Сигнал не изменён. Конус на уровне Th12. Контуры ровные. Киста 3 см."
    assert one(lines, swapped)["rougeLsum"].f1 == 1


def test_sentences_of_the_candidate_count_one_by_one() -> None:
    # Each candidate sentence finds its own half of the reference sentence; in one piece only one of them would.
    result = one("Грыжа диска и желудочки не расширены", "Желудочки не расширены. Грыжа диска и.")
    assert result["rougeLsum"].f1 == 1
    assert result["rougeL"].f1 == pytest.approx(3 / 6)


def test_decimal_comma_is_part_of_the_number() -> None:
    assert one("очаг 2,5", "очаг 2,7")["rouge1"].f1 == pytest.approx(1 / 2)
    assert one("очаг 2,5", "очаг 5,2")["rouge1"].f1 == pytest.approx(1 / 2)


def test_yo_and_capitals_do_not_count() -> None:
    assert one("Объём чёткий", "ОБЪЕМ четкий")["rouge2"].f1 == 1


def test_inflection_counts() -> None:
    assert one("грыжа диска", "грыжи диска")["rouge1"].f1 == pytest.approx(1 / 2)


@pytest.mark.parametrize("candidate", ["", "  \n", "— …"])
def test_empty_candidate_scores_zero(candidate: str) -> None:
    nothing = RougeScore(f1=0, precision=0, recall=0, low=0, high=0)
    assert all(value == nothing for value in one("Норма", candidate).values())


def test_length_mismatch_is_refused_without_naming_texts() -> None:
    with pytest.raises(ValueError) as caught:
        score(["Норма", "Грыжа"], ["Норма"])
    assert str(caught.value) == "2 references but 1 candidates"


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="no examples"):
        score([], [])


def test_mean_over_examples_and_interval() -> None:
    # F1 is 1 for half of the examples and 0 for the others, precision and recall likewise.
    result = score(["норма диска"] * 200, ["норма диска", "грыжа"] * 100)["rouge1"]
    assert (result.f1, result.precision, result.recall) == (0.5, 0.5, 0.5)
    # The mean of 200 such values has a standard error of 0.5 / sqrt(200) = 0.0354; 95 % is 1.96 of it.
    assert result.low == pytest.approx(0.5 - 1.96 * 0.0354, abs=0.012)
    assert result.high == pytest.approx(0.5 + 1.96 * 0.0354, abs=0.012)


def test_f1_is_the_mean_of_f1() -> None:
    result = score(["а б в г", "а"], ["а", "а б в г"])["rouge1"]
    assert result.precision == result.recall == pytest.approx((1 + 1 / 4) / 2)
    assert result.f1 == pytest.approx(2 / 5)


def test_interval_is_the_same_every_time_and_leaves_global_randomness_alone() -> None:
    references, candidates = ["норма диска", "грыжа", "очаг 5 мм"], ["норма", "грыжа", "очаг 6 мм"]
    np.random.seed(1)
    random.seed(1)
    before_numpy, before_python = np.random.get_state(legacy=False), random.getstate()
    first = score(references, candidates)
    after_numpy = np.random.get_state(legacy=False)
    assert str(before_numpy) == str(after_numpy)
    assert np.array_equal(before_numpy["state"]["key"], after_numpy["state"]["key"])
    assert random.getstate() == before_python
    np.random.seed(2)
    assert score(references, candidates) == first
    assert first["rouge1"].low < first["rouge1"].f1 < first["rouge1"].high


@settings(deadline=None, max_examples=60)
@given(texts)
def test_a_text_equals_itself(text: str) -> None:
    tokens = RussianTokenizer().tokenize(text)
    result = one(text, text)
    assert result["rouge1"].f1 == result["rougeL"].f1 == result["rougeLsum"].f1 == (1 if tokens else 0)
    assert result["rouge2"].f1 == (1 if len(tokens) > 1 else 0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_bounds(pairs: list[tuple[str, str]]) -> None:
    result = score([reference for reference, _ in pairs], [candidate for _, candidate in pairs])
    for value in result.values():
        assert 0 <= value.low <= value.high <= 1
        assert 0 <= value.f1 <= 1
    # Swapping the sides swaps precision and recall.
    swapped = score([candidate for _, candidate in pairs], [reference for reference, _ in pairs])
    for metric in ("rouge1", "rouge2", "rougeL"):
        assert swapped[metric].precision == pytest.approx(result[metric].recall)


def test_plain_english_scores_as_with_the_stock_tokenizer() -> None:
    reference = "The cardiac silhouette is normal in size.\nNo pneumothorax is seen.\nThe lungs are clear"
    candidate = "The lungs are clear.\nHeart size is normal.\nNo pleural effusion or pneumothorax is seen"
    stock = RougeScorer(METRICS).score(reference, candidate)
    ours = one(reference, candidate)
    for metric in METRICS:
        assert 0 < stock[metric].fmeasure < 1
        assert ours[metric].f1 == pytest.approx(stock[metric].fmeasure)
        assert ours[metric].precision == pytest.approx(stock[metric].precision)
        assert ours[metric].recall == pytest.approx(stock[metric].recall)


def test_scoring_ends_when_it_has_to() -> None:
    """Thousands of reports take longer than a worker is given to stop."""
    left = [3]

    def stop() -> None:
        left[0] -= 1
        if not left[0]:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        score(["норма"] * 100_000, ["норма"] * 100_000, stop)
