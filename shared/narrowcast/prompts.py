"""The prompt, written once: training, serving and evaluation all render it here.

A row ``{instruction, input, output}`` becomes a chat: the instruction is the system
message, the input the user's, the output the assistant's. The base model's own chat
template turns the chat into tokens, in TRL and in vLLM alike. The template's id and hash go
into every adapter's manifest, so that an adapter is never served with another prompt than
it was trained with.
"""

import hashlib
import json
from typing import Any, Final, Literal, TypedDict

TEMPLATE_ID: Final = "report-v2"
# Short on purpose: every row of every epoch and every request pays for it in tokens.
_INSTRUCTION: Final = "Составь описание исследования по заключению."
_INSTRUCTION_FOR_STUDY: Final = "Составь описание исследования «{study}» по заключению."
_LAYOUT: Final = "system=instruction;user=input;assistant=output"
CHAT_TEMPLATE_KWARGS: Final[dict[str, Any]] = {"enable_thinking": False}
"""Given to every rendering of a base's chat template. Qwen3's, left to itself, puts an empty block of
thoughts before the answer of a row, and none into the prompt: it would be trained as part of the report."""
TEMPLATE_HASH: Final = hashlib.sha256(
    "\n".join(
        (TEMPLATE_ID, _INSTRUCTION, _INSTRUCTION_FOR_STUDY, _LAYOUT, json.dumps(CHAT_TEMPLATE_KWARGS))
    ).encode()
).hexdigest()


class Message(TypedDict):
    """One chat message in OpenAI's form."""

    role: Literal["system", "user", "assistant"]
    content: str


def instruction_for(study: str | None) -> str:
    """Return the instruction of a row; ``study`` is the kind of examination, e.g. «МРТ головного мозга»."""
    return _INSTRUCTION_FOR_STUDY.format(study=study) if study else _INSTRUCTION


def prompt_messages(instruction: str, input_text: str) -> list[Message]:
    """Return the chat up to where the model takes over."""
    return [
        {"role": "system", "content": instruction.strip()},
        {"role": "user", "content": input_text.strip()},
    ]


def completion_messages(output: str) -> list[Message]:
    """Return what the model is trained to answer."""
    return [{"role": "assistant", "content": output.strip()}]
