"""The prompt: written once, and its hash changes when it does."""

from narrowcast import prompts


def test_the_instruction_names_the_study() -> None:
    assert "«МРТ коленного сустава»" in prompts.instruction_for("МРТ коленного сустава")
    assert "«" not in prompts.instruction_for(None)


def test_surrounding_space_never_reaches_the_model() -> None:
    assert prompts.prompt_messages(" a ", "\nb ") == [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
    ]
    assert prompts.completion_messages(" c\n") == [{"role": "assistant", "content": "c"}]


def test_the_template_is_pinned() -> None:
    """Whoever changes the prompt gives it a new id: adapters trained with the old one still exist."""
    pinned = {"report-v1": "42256dea329e34c7666290602d176cdc29b652792635b36e984ac41dab3b0f7e"}
    assert pinned[prompts.TEMPLATE_ID] == prompts.TEMPLATE_HASH
