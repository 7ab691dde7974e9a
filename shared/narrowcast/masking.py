"""Which tokens of a row are trained, and what keeps a row from being trained on.

The trainer decides by it, and the gateway's preview shows by it what the trainer will decide.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from narrowcast.errors import InvalidInput
from narrowcast.prompts import Message, completion_messages, prompt_messages

Fault = Literal["empty_output", "chat_template_mismatch", "special_tokens", "no_end_of_turn", "rows_too_long"]
FAULTS: Final[dict[Fault, str]] = {
    "empty_output": "have an empty output",
    "chat_template_mismatch": "are not their prompt and then an answer in the base's chat template",
    "special_tokens": "hold text that the base reads as one of its special tokens",
    "no_end_of_turn": "would train no end-of-turn token",
    "rows_too_long": "are longer than max_length",
}
"""What such rows do, in the order in which a job is refused for them."""


_NO_LETTER: Final = "\U0010ffff"
_PLAIN_ANSWER: Final = "0"  # a token of any base's, and with which no template would begin a thought
PLAIN_PROMPT: Final[list[Message]] = prompt_messages("-", "-")
PLAIN_CHAT: Final[list[Message]] = [*PLAIN_PROMPT, *completion_messages(_PLAIN_ANSWER)]
"""What it has of special tokens, every row's chat has from the template."""


@dataclass(frozen=True)
class RowLimits:
    """What a row, as tokens, has to keep to."""

    max_length: int
    """Tokens of prompt and answer together."""
    stop_ids: frozenset[int]
    """Of the tokens that end a turn; the answer must hold one, or the model never learns to stop."""
    special_ids: frozenset[int]
    """Of the tokens that are no text."""
    template_tokens: int
    """How many of those the base's template puts into a chat: :data:`PLAIN_CHAT`'s."""


def special_count(tokens: Sequence[int], special_ids: Collection[int]) -> int:
    """Return how many of the tokens are no text."""
    return sum(token in special_ids for token in tokens)


def mask_fault(prompt: Sequence[int], whole: Sequence[int], limits: RowLimits) -> Fault | None:
    """Return what is wrong with a row, as tokens; None if it can be trained on.

    Args:
        prompt: the chat up to where the model takes over; not trained.
        whole: the chat with the answer; what follows the prompt is trained.
        limits: what the base and the job set.
    """
    answer = whole[len(prompt) :]
    if list(whole[: len(prompt)]) != list(prompt) or not answer:
        return "chat_template_mismatch"
    if special_count(whole, limits.special_ids) > limits.template_tokens:
        # A report that quotes an end of turn ends there, and what follows it speaks in another's name.
        return "special_tokens"
    if not limits.stop_ids & set(answer):
        return "no_end_of_turn"
    return "rows_too_long" if len(whole) > limits.max_length else None


def check_template(asked: str, answered: str) -> None:
    """Check that a base's chat template has nothing between a prompt and its answer, no block of thoughts.

    Args:
        asked: the tokens of :data:`PLAIN_PROMPT`, as text.
        answered: those of :data:`PLAIN_CHAT`.

    Raises:
        InvalidInput: ``invalid_base_model``.
    """
    trained = answered.removeprefix(asked)
    # Where the one is not how the other begins, :func:`mask_fault` finds that of every row.
    if trained != answered and not trained.lstrip().startswith(_PLAIN_ANSWER):
        raise InvalidInput(
            "the base model's chat template puts something of its own before an answer, which the model would"
            " be trained to write",
            code="invalid_base_model",
            param="model",
        )


def stop_ids(tokenizer: Any, generation_config: Any) -> set[int]:
    """Return the token ids at which the base stops: its tokenizer's, and its generation config's."""
    configured = generation_config.eos_token_id if generation_config is not None else None
    several = configured if isinstance(configured, list) else [configured]
    return {token for token in [tokenizer.eos_token_id, *several] if token is not None}


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of a tokenizer's special tokens, but for one that stands for unknown letters."""
    decoder = tokenizer.added_tokens_decoder
    # Mistral's own tokenizer, which Transformers takes where mistral-common is installed, cannot say.
    added = (
        {token for token, content in decoder.items() if content.special}
        if isinstance(decoder, dict)
        else set()
    )
    unknown = tokenizer.encode(_NO_LETTER, add_special_tokens=False)
    return (added | set(tokenizer.all_special_ids)) - set(unknown)
