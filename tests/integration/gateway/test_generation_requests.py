"""Which requests for text are refused before a server is asked, and what the refusal names.

A request that passes gets 503: no server answers here.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.chat import completion_create_params

from narrowcast_gateway.generation.schemas import ChatCompletionRequest

from .serving import BASE

HALF = "Иванов \ud800"
CHAT: dict[str, Any] = {"model": BASE, "messages": [{"role": "user", "content": "Киста"}]}
REPORT: dict[str, Any] = {"model": BASE, "impression": "Киста Бейкера"}
IMAGE = {"type": "image_url", "image_url": {"url": "http://иванов"}}
Error = Callable[..., dict[str, Any]]


def _said(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} | more]}


def _post(gateway: Any, path: str, body: dict[str, Any]) -> Any:
    # By the standard library, which writes what a careless client does: lone surrogates and Infinity.
    headers = {"Content-Type": "application/json"}
    return gateway.http.post(f"/v1/{path}", content=json.dumps(body), headers=headers)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        # What cannot be sent on as JSON.
        (_said(HALF), "messages.0.content"),
        (_said([{"type": "text", "text": HALF}]), "messages.0.content.0.text"),
        (_said("x", name=HALF), "messages.0.name"),
        ({"stop": HALF}, "stop"),
        ({"stop": ["x", HALF]}, "stop.1"),
        ({"model": HALF}, "model"),
        ({"user": HALF}, "user"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty"),
        # What vLLM refuses, or fails on.
        ({"top_k": 10**24}, "top_k"),
        ({"top_k": 2**31}, "top_k"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"seed": True}, "seed"),
        ({"max_tokens": True}, "max_tokens"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop.1"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 2, "logprobs": False}, "top_logprobs"),
        # What is no text.
        (_said(None), "messages.0.content"),
        (_said(5), "messages.0.content"),
        (_said([{"type": "text", "text": "x"}, IMAGE]), "messages.0.content.1.type"),
        # What OpenAI has and the servers do not.
        ({"tools": []}, "tools"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_refused_by_the_name_of_its_parameter(
    gateway: Any, error: Error, body: dict[str, Any], param: str, stream: bool
) -> None:
    response = _post(gateway, "chat/completions", CHAT | {"stream": stream} | body)
    assert error(response, 400, "invalid_parameter")["param"] == param
    assert "ванов" not in response.text


@pytest.mark.parametrize("more", [{}, {"stream": None}, {"stream": False}])
def test_options_of_a_stream_need_one(gateway: Any, error: Error, more: dict[str, Any]) -> None:
    response = _post(gateway, "chat/completions", CHAT | {"stream_options": {}} | more)
    assert error(response, 400, "invalid_parameter")["param"] == "stream_options"


def test_what_is_no_text_is_said_in_words_of_the_request(gateway: Any, error: Error) -> None:
    refused = error(_post(gateway, "chat/completions", CHAT | _said([IMAGE])), 400, "invalid_parameter")
    assert refused["message"] == "messages.0.content.0.type: Input should be 'text'"


@pytest.mark.parametrize(
    "body",
    [
        _said([{"type": "text", "text": "Киста 🩻"}]),
        {"n": 2, "temperature": 0.1},
        {"n": 2},
        {"n": 1, "temperature": 0},
        {"stop": "x"},
        {"stop": ["a", "b", "c", "d"]},
        {"stop": None},
        {"logprobs": True, "top_logprobs": 2},
        {"top_logprobs": 0},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"seed": -(2**63), "top_k": 2**31 - 1},
        # An answer of the server's, said back as OpenAI's clients do.
        {"messages": [{"role": "assistant", "content": "x", "refusal": None, "tool_calls": None}]},
    ],
)
def test_a_chat_is_taken(gateway: Any, error: Error, body: dict[str, Any]) -> None:
    error(_post(gateway, "chat/completions", CHAT | body), 503, "inference_unavailable")


def test_a_null_for_any_of_openais_parameters_asks_for_nothing() -> None:
    known = completion_create_params.CompletionCreateParamsBase.__annotations__.keys() | {"stream"}
    assert {"tools", "tool_choice", "response_format", "function_call", "audio"} <= known
    request = ChatCompletionRequest.model_validate(dict.fromkeys(known) | CHAT)
    assert request.for_server(BASE) == CHAT


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"impression": HALF}, "impression"),
        ({"impression": " \n\t"}, "impression"),
        ({"max_tokens": True}, "max_tokens"),
        ({"impression": ""}, "impression"),
        ({"model": HALF}, "model"),
        ({"study": HALF}, "study"),
        ({"seed": 2**63}, "seed"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_a_report_is_refused_by_the_name_of_its_parameter(
    gateway: Any, error: Error, body: dict[str, Any], param: str
) -> None:
    response = _post(gateway, "reports", REPORT | body)
    assert error(response, 400, "invalid_parameter")["param"] == param
    assert "ванов" not in response.text
