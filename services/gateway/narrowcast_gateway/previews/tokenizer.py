"""The served base's own tokenizer and chat template, over HTTP: the gateway has no model's files."""

from collections.abc import Sequence
from typing import Any

import httpx

from narrowcast.errors import InvalidInput, Unavailable
from narrowcast.masking import PLAIN_CHAT, PLAIN_PROMPT, RowLimits, check_template, special_count
from narrowcast.prompts import Message

_BAD_REQUEST = 400
_TIMEOUT_S = 30.0


class BaseTokenizer:
    """One base model's; vLLM's web server does the work, so it answers while its engine sleeps.

    Raises, in every method:
        Unavailable: ``inference_unavailable`` or ``inference_failed``.
    """

    def __init__(self, http: httpx.AsyncClient, base: str, url: str) -> None:
        self._http = http
        self._base = base
        self._url = url.rstrip("/")

    async def limits(self, max_length: int) -> RowLimits:
        """Return what the base and a training's ``max_length`` set.

        Raises:
            InvalidInput: ``chat_template_mismatch``, the template refuses a chat such as ours; or
                ``invalid_base_model``, it puts something of its own before an answer.
        """
        health = await self._ask("GET", "/narrowcast/health")
        try:
            stops, specials = (
                frozenset(map(int, health[name])) for name in ("stop_token_ids", "special_token_ids")
            )
            context = health["context_length"]
            longest = max_length if context is None else min(max_length, int(context))
        except (KeyError, TypeError, ValueError):
            raise self._failed() from None
        asked = await self.chat(PLAIN_PROMPT, prompt=True)
        plain = await self.chat(PLAIN_CHAT, prompt=False)
        check_template(await self.text(asked), await self.text(plain))
        return RowLimits(longest, stops, specials, special_count(plain, specials))

    async def chat(self, messages: Sequence[Message], *, prompt: bool) -> list[int]:
        """Return a chat as token ids, as the base's template has it.

        Args:
            messages: the chat.
            prompt: whether the model is to go on from there.

        Raises:
            InvalidInput: ``chat_template_mismatch``, the template refuses such a chat.
        """
        body = {"model": self._base, "messages": list(messages), "add_generation_prompt": prompt}
        answer = await self._ask("POST", "/tokenize", body)
        try:
            return [int(token) for token in answer["tokens"]]
        except (KeyError, TypeError, ValueError):
            raise self._failed() from None

    async def text(self, tokens: Sequence[int]) -> str:
        """Return tokens as text, special ones included."""
        answer = await self._ask("POST", "/detokenize", {"model": self._base, "tokens": list(tokens)})
        if "prompt" not in answer:
            raise self._failed()
        return str(answer["prompt"])

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = await self._http.request(method, self._url + path, json=body, timeout=_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"the inference server of {self._base} does not answer", code="inference_unavailable"
            ) from error
        if response.status_code == _BAD_REQUEST:
            # Its own words may quote the row.
            raise InvalidInput(
                f"the chat template of {self._base} refuses a row's chat",
                code="chat_template_mismatch",
                param="model",
            )
        if not response.is_success:
            raise self._failed()
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._failed()
        return answer

    def _failed(self) -> Unavailable:
        return Unavailable(f"the inference server of {self._base} failed", code="inference_failed")
