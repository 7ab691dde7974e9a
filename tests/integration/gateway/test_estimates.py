"""Estimates over HTTP, from what trainers have reported to Redis."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from narrowcast.connections import Connections
from narrowcast.estimates.history import KEPT_OBSERVATIONS, EstimateFacts, NodeFacts, Observation

BASE = "smollm2-135m-instruct"
ROW = {"instruction": "Опиши", "input": "Грыжа L4-L5", "output": "Грыжа 5 мм."}
GIB = 1024**3
T4 = NodeFacts(
    name="Tesla T4",
    device="cuda",
    memory_bytes=15 * GIB,
    engine="unsloth",
    quantization="nf4",
    micro_batch_tokens=8192,
)
SMALL = T4.model_copy(update={"name": "NVIDIA GeForce RTX 3060", "memory_bytes": 8 * GIB})
CPU = NodeFacts(
    name="cpu",
    device="cpu",
    memory_bytes=64 * GIB,
    engine="peft",
    quantization="none",
    micro_batch_tokens=1536,
    cores=4,
)
PAPER = {"micro_batch": 2}
PARAMETERS = 8_030_261_248
Error = Callable[..., dict[str, Any]]


@pytest.fixture
def facts(connections: Connections, llama_8b: dict[str, Any]) -> EstimateFacts:
    reported = EstimateFacts(connections.redis)
    # The real base of the tests serves under its name; the estimate is of the paper's shape.
    reported.report_node(T4, {BASE: llama_8b})
    return reported


def took(memory_ratio: float, flops: float | None = None, parameters: int = PARAMETERS) -> Observation:
    return Observation(parameters=parameters, memory_ratio=memory_ratio, flops=flops)


def _ask(gateway: Any, **body: Any) -> Any:
    question = {"model": BASE} | body
    return gateway.http.post("/v1/fine_tuning/estimates", json=question)


def test_the_papers_case(gateway: Any, facts: EstimateFacts) -> None:
    found = _ask(gateway, rows=936, longest_row=2048, hyperparameters=PAPER).json()
    assert found["object"] == "fine_tuning.estimate"
    assert (found["trainable_parameters"], found["steps"]) == (167_772_160, 351)
    assert (found["engine"], found["quantization"], found["micro_batch"]) == ("unsloth", "nf4", 2)
    assert (found["rank"], found["max_length"], found["longest_row"]) == (64, 2048, 2048)
    assert found["memory"]["total"]["expected"] / GIB == pytest.approx(8.84, rel=0.05)
    assert (found["device"], found["fits"], found["changes"]) == ("Tesla T4", "yes", [])
    assert found["time"]["minutes"]["low"] < found["time"]["minutes"]["high"]


def test_without_the_longest_row_it_is_the_same(gateway: Any, facts: EstimateFacts) -> None:
    """Every row is taken for the longest that may be, here and on the command line."""
    known = _ask(gateway, rows=936, longest_row=2048, hyperparameters=PAPER).json()
    assert _ask(gateway, rows=936, hyperparameters=PAPER).json() == known


def test_rows_end_where_the_base_does(gateway: Any, facts: EstimateFacts, llama_8b: dict[str, Any]) -> None:
    facts.report_node(T4, {BASE: llama_8b | {"max_position_embeddings": 1024}})
    found = _ask(gateway, rows=936, longest_row=1500).json()
    assert (found["longest_row"], found["max_length"], found["rows_too_long"]) == (1024, 1024, True)


def test_an_engine_that_is_not_installed_there_is_refused(
    gateway: Any, facts: EstimateFacts, error: Error
) -> None:
    facts.report_node(T4.model_copy(update={"engine": "peft"}), {})
    asked = {"rows": 10, "hyperparameters": {"engine": "unsloth"}}
    assert error(_ask(gateway, **asked), 400, "engine_unavailable")["param"] == "hyperparameters.engine"


def test_rows_come_from_a_file_and_the_micro_batch_from_the_trainer(
    gateway: Any, facts: EstimateFacts
) -> None:
    content = "\n".join(json.dumps(ROW, ensure_ascii=False) for _ in range(20))
    upload = gateway.http.post(
        "/v1/files", files={"file": ("rows.jsonl", content)}, data={"purpose": "fine-tune"}
    )
    hyperparameters = {"n_epochs": 2, "max_length": 1024, "batch_size": 8}
    found = _ask(gateway, training_file=upload.json()["id"], hyperparameters=hyperparameters).json()
    assert (found["rows"], found["steps"], found["micro_batch"]) == (20, 6, 8)


def test_only_the_layers_that_are_trained_are_counted(gateway: Any, facts: EstimateFacts) -> None:
    every = _ask(gateway, rows=936, longest_row=2048, hyperparameters=PAPER).json()
    some = {"target_modules": ["q_proj", "down_proj"]}
    found = _ask(gateway, rows=936, longest_row=2048, hyperparameters=PAPER | some).json()
    assert found["trainable_parameters"] == 32 * 64 * (4096 + 4096 + 14336 + 4096)
    for term in ("lora", "gradients"):
        assert found["memory"][term]["expected"] == 4 * found["trainable_parameters"]
    assert found["memory"]["optimizer"]["expected"] < every["memory"]["optimizer"]["expected"] / 2


def test_a_sweep_takes_the_memory_of_its_largest_batch_and_the_steps_of_its_smallest(
    gateway: Any, facts: EstimateFacts
) -> None:
    rows = {"rows": 640, "longest_row": 512, "tokens_per_row": 400}
    sweep = {"n_trials": 2, "batch_size": 2, "sweep": {"batch_size": [2, 16]}}
    found = _ask(gateway, **rows, hyperparameters=sweep).json()
    largest = _ask(gateway, **rows, hyperparameters={"batch_size": 16}).json()
    assert found["micro_batch"] == largest["micro_batch"] == 16
    assert found["memory"] == largest["memory"]
    assert found["steps"] == 3 * 320


def test_what_does_not_fit_comes_with_what_would(gateway: Any, facts: EstimateFacts) -> None:
    """As hyper-parameters that a job takes: asked again with them, it fits."""
    facts.report_node(SMALL, {})
    asked = {"rows": 936, "longest_row": 2048, "gpu": SMALL.name}
    found = _ask(gateway, **asked).json()
    assert found["fits"] == "no"
    assert found["changes"]
    for change in found["changes"]:
        assert change["required"]["high"] <= SMALL.memory_bytes
        assert change["consequence"]
        again = _ask(gateway, **asked, hyperparameters=change["settings"]).json()
        assert again["fits"] == "yes"
        assert again["memory"]["required"] == change["required"]


def test_rows_that_a_job_would_be_refused_for_are_told_of(gateway: Any, facts: EstimateFacts) -> None:
    asked = {"rows": 10, "hyperparameters": {"max_length": 512}}
    assert _ask(gateway, **asked, longest_row=513).json()["rows_too_long"] is True
    assert _ask(gateway, **asked, longest_row=512).json()["rows_too_long"] is False
    assert _ask(gateway, **asked).json()["rows_too_long"] is False


def test_what_the_node_cannot_do_is_named_where_it_was_asked_for(
    gateway: Any, facts: EstimateFacts, error: Error
) -> None:
    facts.report_node(CPU, {})
    asked = {"method": {"type": "supervised", "supervised": {"hyperparameters": {"engine": "unsloth"}}}}
    found = error(_ask(gateway, rows=10, gpu="cpu", **asked), 400, "engine_unavailable")
    assert found["param"] == "method.supervised.hyperparameters.engine"


def test_without_a_choice_the_largest_gpu_is_taken(gateway: Any, facts: EstimateFacts) -> None:
    facts.report_node(SMALL, {})
    facts.report_node(CPU, {})
    assert _ask(gateway, rows=1).json()["device"] == T4.name
    on_cpu = _ask(gateway, rows=1, gpu="cpu").json()
    assert (on_cpu["engine"], on_cpu["quantization"]) == ("peft", "none")
    assert on_cpu["memory"]["weights"]["expected"] == 4 * on_cpu["parameters"]


def test_where_bases_are_sharded_each_gpu_holds_a_part(gateway: Any, facts: EstimateFacts) -> None:
    sharing = {"gpus": 4, "parallelism": "fsdp", "engine": "peft", "quantization": "none"}
    facts.report_node(T4.model_copy(update=sharing), {})
    asked = {"rows": 936, "longest_row": 2048}
    found = _ask(gateway, **asked, hyperparameters=PAPER).json()
    assert (found["gpus"], found["parallelism"], found["quantization"]) == (4, "fsdp", "none")
    assert found["fits"] == "yes"
    assert found["memory"]["lora"]["expected"] == found["trainable_parameters"]  # 4 bytes each, on 4 GPUs
    assert _ask(gateway, **asked, hyperparameters={"batch_size": 6}).json()["gpus"] == 3
    refused = _ask(gateway, **asked, hyperparameters={"quantization": "nf4"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "quantization_unavailable")


def test_it_learns_from_finished_jobs_of_the_same_gpu_and_engine(gateway: Any, facts: EstimateFacts) -> None:
    before = _ask(gateway, rows=936, longest_row=2048, hyperparameters=PAPER).json()
    guess = 0.3 * 65e12
    for _ in range(5):
        facts.observe(T4.name, "unsloth", took(1.25, flops=guess / 2))
        facts.observe(T4.name, "peft", took(0.5))
        facts.observe(SMALL.name, "unsloth", took(0.5))
        facts.observe(T4.name, "unsloth", took(0.5, flops=guess / 10, parameters=135_000_000))
    after = _ask(gateway, rows=936, longest_row=2048, hyperparameters=PAPER).json()
    assert after["corrected_by_jobs"] == 5
    for end in ("low", "expected", "high"):
        guessed = sum(before["memory"][term][end] for term in ("activations", "allocator"))
        assert after["memory"]["correction"][end] == pytest.approx(0.25 * guessed)
        assert after["memory"]["total"][end] == pytest.approx(before["memory"]["total"][end] + 0.25 * guessed)
        assert after["time"]["minutes"][end] == pytest.approx(2 * before["time"]["minutes"][end])


def test_no_more_is_kept_of_jobs_than_is_used(connections: Connections, facts: EstimateFacts) -> None:
    for _ in range(9 * KEPT_OBSERVATIONS):
        facts.observe(T4.name, "unsloth", took(1.1))
    (key,) = connections.redis.keys("nc:estimates:observations:*")
    assert connections.redis.llen(key) == 4 * KEPT_OBSERVATIONS
    connections.redis.lpush(key, '{"memory_ratio": "of another version"}')
    assert facts.correction(T4.name, "unsloth", PARAMETERS).jobs == KEPT_OBSERVATIONS
    connections.redis.hset("nc:estimates:nodes", "A GPU", '{"name": "of another version"}')
    assert facts.nodes() == [T4]


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "gpt-4"}, 404, "model_not_found", "model"),
        ({"gpu": "Imaginary 9000"}, 404, "gpu_not_found", "gpu"),
        ({"rows": None, "training_file": "file-0"}, 404, "not_found", "training_file"),
        ({"rows": None}, 400, "invalid_parameter", None),
        ({"training_file": "file-0"}, 400, "invalid_parameter", None),
        ({"rows": 0}, 400, "invalid_parameter", "rows"),
        ({"tokens_per_row": 1e308}, 400, "invalid_parameter", "tokens_per_row"),
        ({"tokens_per_row": 600, "longest_row": 500}, 400, "invalid_parameter", None),
        (
            {"hyperparameters": {"micro_batch": 0}},
            400,
            "invalid_hyperparameter",
            "hyperparameters.micro_batch",
        ),
        (
            {"hyperparameters": {"quantization": "fp3"}},
            400,
            "invalid_parameter",
            "hyperparameters.quantization",
        ),
        ({"hyperparameters": {"rank": 128}}, 400, "unservable_adapter", "hyperparameters.rank"),
        ({"hyperparameters": {"use_dora": True}}, 400, "unservable_adapter", "hyperparameters.use_dora"),
        (
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"rank": 128}}}},
            400,
            "unservable_adapter",
            "method.supervised.hyperparameters.rank",
        ),
    ],
)
def test_bad_questions_are_refused(
    gateway: Any,
    facts: EstimateFacts,
    error: Error,
    change: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
) -> None:
    assert error(_ask(gateway, **({"rows": 936} | change)), status, code)["param"] == param


def test_an_unknown_architecture_is_named(
    gateway: Any, facts: EstimateFacts, error: Error, llama_8b: dict[str, Any]
) -> None:
    facts.report_node(T4, {BASE: llama_8b | {"model_type": "mixtral"}})
    found = error(_ask(gateway, rows=1), 400, "unsupported_architecture")
    assert "mixtral" in found["message"]


def test_before_a_trainer_has_reported_there_is_no_answer(gateway: Any, error: Error) -> None:
    error(_ask(gateway, rows=1), 503, "trainer_unknown")
    EstimateFacts(gateway.services.connections.redis).report_node(T4, {})
    error(_ask(gateway, rows=1), 404, "base_model_unknown")


def test_a_key_is_required(gateway: Any, facts: EstimateFacts, error: Error) -> None:
    gateway.http.headers.pop("Authorization")
    error(_ask(gateway, rows=1), 401, "missing_api_key")


def test_a_sweep_takes_as_long_as_all_its_trials(gateway: Any, facts: EstimateFacts) -> None:
    once = _ask(gateway, rows=936, longest_row=2048, hyperparameters=PAPER | {"rank": 32}).json()
    space = {"rank": [8, 32], "learning_rate": [1e-5, 1e-3]}
    hyperparameters = {"rank": 16, "n_trials": 6, "sweep": space}
    swept = _ask(gateway, rows=936, longest_row=2048, hyperparameters=PAPER | hyperparameters).json()
    assert swept["rank"] == 32
    assert swept["memory"] == once["memory"]
    minutes = once["time"]["minutes"]["expected"]
    assert swept["time"]["minutes"]["expected"] == pytest.approx(6 * minutes)
