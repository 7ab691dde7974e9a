"""Which tokens of a row are trained, and what keeps a row from being trained on.

The trainer decides by it, and the gateway's preview shows by it what the trainer will decide.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final, Literal

Fault = Literal["empty_output", "chat_template_mismatch", "no_end_of_turn", "rows_too_long"]
FAULTS: Final[dict[Fault, str]] = {
    "empty_output": "have an empty output",
    "chat_template_mismatch": "are not their prompt and then an answer in the base's chat template",
    "no_end_of_turn": "would train no end-of-turn token",
    "rows_too_long": "are longer than max_length",
}
"""What such rows do, in the order in which a job is refused for them."""


def mask_fault(
    prompt: Sequence[int], whole: Sequence[int], *, max_length: int, stop_ids: Collection[int]
) -> Fault | None:
    """Return what is wrong with a row, as tokens; None if it can be trained on.

    Args:
        prompt: the chat up to where the model takes over; not trained.
        whole: the chat with the answer; what follows the prompt is trained.
        max_length: tokens that ``whole`` may have.
        stop_ids: token ids that end a turn; the answer must hold one, or the model never learns to stop.
    """
    answer = whole[len(prompt) :]
    if list(whole[: len(prompt)]) != list(prompt) or not answer:
        return "chat_template_mismatch"
    if not set(answer) & set(stop_ids):
        return "no_end_of_turn"
    return "rows_too_long" if len(whole) > max_length else None


def stop_ids(tokenizer: Any, generation_config: Any) -> set[int]:
    """Return the token ids at which the base stops: its tokenizer's, and its generation config's."""
    configured = generation_config.eos_token_id if generation_config is not None else None
    several = configured if isinstance(configured, list) else [configured]
    return {token for token in [tokenizer.eos_token_id, *several] if token is not None}
