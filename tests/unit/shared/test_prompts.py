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
    pinned = {"report-v2": "c41139fd5299bada67d7e1cd88c5e43b9e803027b5809802da1d4d7ae3aa8342"}
    assert pinned[prompts.TEMPLATE_ID] == prompts.TEMPLATE_HASH
