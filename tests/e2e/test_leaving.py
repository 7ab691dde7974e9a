"""A caller who gives up: real vLLM writes no further. It needs no adapter, so it is no part of the whole line."""

import json
import re
import time
from typing import Any

import httpx
import pytest

from narrowcast import prompts

_IMPRESSION = "Киста Бейкера справа."
_CHAT = {"messages": prompts.prompt_messages(prompts.instruction_for(None), _IMPRESSION), "temperature": 0}
"""What the draft asks vLLM for: greedy, since a sampled answer may be short."""
_POLL_S = 0.3
_PATIENCE_S = 5
"""Of the caller; and for vLLM to notice, which would write for the better part of a minute."""


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/reports", {"impression": _IMPRESSION}), ("/v1/chat/completions", _CHAT)],
)
def test_vllm_stops_writing_for_a_caller_who_leaves(site: Any, path: str, body: dict[str, Any]) -> None:
    """The base, which repeats itself to the end of its context."""
    site.stack.wait_until("vLLM", site.stack.inference_ready, 300)
    with pytest.raises(httpx.ReadTimeout):
        site.http.post(
            path, json=body | {"model": site.stack.base_model, "max_tokens": 1500}, timeout=_PATIENCE_S
        )
    deadline = time.monotonic() + _PATIENCE_S
    while _running(site):
        assert time.monotonic() < deadline, "vLLM writes on"
        time.sleep(_POLL_S)
    lines = [json.loads(line) for line in (site.stack.logs / "gateway.log").read_text().splitlines()]
    assert any(line.get("route") == path and line.get("status") == 499 for line in lines)


def _running(site: Any) -> float:
    metrics = httpx.get(f"http://127.0.0.1:{site.stack.inference_port}/metrics").text
    found = re.search(r"^vllm:num_requests_running\{.*\} (\S+)$", metrics, re.MULTILINE)
    assert found
    return float(found[1])
