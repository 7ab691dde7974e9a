"""Submission of training jobs: OpenAI's shapes, and what is refused."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from narrowcast import ids
from narrowcast.training import LINEAR_KINDS, Hyperparameters, TrainingSpec
from narrowcast_gateway.settings import ServersSettings

BASE = "smollm2-135m-instruct"
ROW = {"instruction": "Опиши", "input": "Грыжа L4-L5", "output": "Грыжа 5 мм."}
Error = Callable[..., dict[str, Any]]


def _in_method(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}


def test_a_job_is_queued_in_openais_shape(gateway: Any, file_id: str) -> None:
    body = {
        "model": BASE,
        "training_file": file_id,
        "suffix": "mri-brain",
        "seed": 7,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto", "rank": 8}}},
    }
    job = gateway.http.post("/v1/fine_tuning/jobs", json=body).json()
    assert (job["object"], job["status"], job["fine_tuned_model"]) == ("fine_tuning.job", "queued", None)
    assert (job["seed"], job["hyperparameters"]["rank"], job["hyperparameters"]["n_epochs"]) == (7, 8, 3)
    assert gateway.http.get(f"/v1/fine_tuning/jobs/{job['id']}").json() == job
    assert gateway.http.get("/v1/fine_tuning/jobs").json()["data"] == [job]
    cancelled = gateway.http.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert gateway.http.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").status_code == 409


def test_the_longest_suffix_makes_an_adapter_that_can_be_asked_for(gateway: Any, file_id: str) -> None:
    body = {"model": BASE, "training_file": file_id, "suffix": "a" * 40}
    job_id = gateway.http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    assert ids.ADAPTER_ID.match(gateway.services.connections.jobs.get(job_id).spec["adapter_id"])


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "gpt-4"}, 404, "model_not_found", "model"),
        ({"training_file": "file-0"}, 404, "not_found", "training_file"),
        ({"validation_file": "file-0"}, 404, "not_found", "validation_file"),
        ({"suffix": "Иванов"}, 400, "invalid_parameter", "suffix"),
        ({"hyperparameters": {"rank": 128}}, 400, "unservable_adapter", "hyperparameters.rank"),
        ({"hyperparameters": {"n_epochs": 0}}, 400, "invalid_hyperparameter", "hyperparameters.n_epochs"),
        (
            {"hyperparameters": {"warmup_ratio": 1.5}},
            400,
            "invalid_hyperparameter",
            "hyperparameters.warmup_ratio",
        ),
        (
            {"hyperparameters": {"early_stopping_patience": -1}},
            400,
            "invalid_hyperparameter",
            "hyperparameters.early_stopping_patience",
        ),
        (
            {"hyperparameters": {"target_modules": []}},
            400,
            "invalid_parameter",
            "hyperparameters.target_modules",
        ),
        (
            {"hyperparameters": {"target_modules": ["lm_head"]}},
            400,
            "invalid_parameter",
            "hyperparameters.target_modules",
        ),
        (
            {"hyperparameters": {"target_modules": ["q_proj", "q_proj"]}},
            400,
            "invalid_parameter",
            "hyperparameters.target_modules",
        ),
        ({"hyperparameters": {"rank": True}}, 400, "invalid_parameter", "hyperparameters.rank"),
        ({"hyperparameters": {"sweep": {"rank": [True]}}}, 400, "invalid_parameter", "hyperparameters.sweep"),
        ({"seed": True}, 400, "invalid_parameter", "seed"),
        ({"suffix": "МРТ"}, 400, "invalid_parameter", "suffix"),
        ({"hyperparameters": {"scheduler": "warp"}}, 400, "invalid_parameter", "hyperparameters.scheduler"),
        (
            {"hyperparameters": {"quantization": "gptq"}},
            400,
            "invalid_parameter",
            "hyperparameters.quantization",
        ),
        ({"hyperparameters": {"engine": "axolotl"}}, 400, "invalid_parameter", "hyperparameters.engine"),
        ({"hyperparameters": {"use_dora": False}}, 400, "invalid_parameter", "hyperparameters.use_dora"),
        (
            _in_method({"rank": 128}),
            400,
            "unservable_adapter",
            "method.supervised.hyperparameters.rank",
        ),
        (
            {"hyperparameters": {"n_epochs": 0}} | _in_method({"rank": 8}),
            400,
            "invalid_hyperparameter",
            "hyperparameters.n_epochs",
        ),
        (
            {"hyperparameters": {"n_epochs": 1}} | _in_method({"n_epochs": 0}),
            400,
            "invalid_hyperparameter",
            "method.supervised.hyperparameters.n_epochs",
        ),
        (
            _in_method({"sweep": {"rank": [4, 8]}}),
            400,
            "invalid_hyperparameter",
            "method.supervised.hyperparameters.sweep",
        ),
        (
            {"hyperparameters": {"rank": 64, "alpha": 16, "n_trials": 2, "sweep": {"rank": [1, 2, 64]}}},
            400,
            "invalid_hyperparameter",
            "hyperparameters.sweep",
        ),
        ({"integrations": []}, 400, "invalid_parameter", "integrations"),
    ],
)
def test_bad_jobs_are_refused_at_once(
    gateway: Any, error: Error, file_id: str, change: dict[str, Any], status: int, code: str, param: str
) -> None:
    body = {"model": BASE, "training_file": file_id} | change
    found = error(gateway.http.post("/v1/fine_tuning/jobs", json=body), status, code)
    assert found["param"] == param
    assert gateway.http.get("/v1/fine_tuning/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("use_dora", True, "DoRA is not supported"),
        ("modules_to_save", ["lm_head"], "training of whole modules is not supported"),
        ("bias", "all", "bias must be none"),
        ("lora_bias", True, "a bias in the LoRA layers is not supported"),
        ("init_lora_weights", "pissa", "this initialisation changes the base weights and was not converted"),
        ("trainable_token_indices", [1], "training of single tokens is not supported"),
        ("peft_type", "LOHA", "it is not LoRA"),
    ],
)
def test_who_asks_for_what_vllm_does_not_serve_is_told_why(
    gateway: Any, error: Error, file_id: str, setting: str, value: Any, reason: str
) -> None:
    wrong = {setting: value}
    for asked, place in (
        ({"hyperparameters": wrong}, "hyperparameters"),
        (_in_method(wrong), "method.supervised.hyperparameters"),
        ({"hyperparameters": {"n_trials": 2, "sweep": wrong}}, "hyperparameters.sweep"),
    ):
        body = {"model": BASE, "training_file": file_id} | asked
        for path in ("jobs", "previews", "estimates"):
            answer = gateway.http.post(f"/v1/fine_tuning/{path}", json=body)
            found = error(answer, 400, "unservable_adapter")
            assert found["param"] == f"{place}.{setting}"
            assert found["message"] == f"vLLM does not serve such an adapter: {reason}"


def test_every_hyperparameter_can_be_set(gateway: Any, file_id: str) -> None:
    asked = {
        "n_epochs": 2, "batch_size": 4, "micro_batch": 2, "learning_rate_multiplier": 0.5, "learning_rate": 1e-4, "rank": 16,
        "alpha": 32, "dropout": 0.05, "target_modules": ["q_proj", "v_proj"], "scheduler": "cosine",
        "warmup_ratio": 0.1, "weight_decay": 0.02, "max_length": 512, "early_stopping_patience": 1,
        "seed": 11, "engine": "peft", "quantization": "nf4", "n_trials": 3,
        "sweep": {
            "learning_rate": [1e-5, 1e-3], "rank": [8, 16], "dropout": [0.0, 0.1], "weight_decay": [0.0, 0.1],
            "batch_size": [4, 8], "n_epochs": [1, 2],
        },
    }  # fmt: skip
    method = {"type": "supervised", "supervised": {"hyperparameters": asked}}
    body = {"model": BASE, "training_file": file_id, "validation_file": file_id, "method": method}
    job = gateway.http.post("/v1/fine_tuning/jobs", json=body).json()
    assert job["method"]["supervised"]["hyperparameters"] | {"seed": job["seed"]} == asked
    stored = TrainingSpec.model_validate(gateway.services.training.get(gateway.tenant, job["id"]).spec)
    assert set(Hyperparameters.model_fields) == set(asked)
    assert stored.hyperparameters.model_dump(mode="json") == asked


def test_what_clients_send_as_null_is_left_out(gateway: Any, file_id: str) -> None:
    unset = dict.fromkeys(("suffix", "metadata", "integrations", "validation_file", "method", "seed"))
    body = {"model": BASE, "training_file": file_id} | unset
    assert gateway.http.post("/v1/fine_tuning/jobs", json=body).status_code == 200


def test_alpha_follows_the_rank(gateway: Any, file_id: str) -> None:
    body = {"model": BASE, "training_file": file_id, "hyperparameters": {"rank": 8}}
    assert gateway.http.post("/v1/fine_tuning/jobs", json=body).json()["hyperparameters"]["alpha"] == 8


def test_who_names_a_wrong_layer_is_told_the_right_ones(gateway: Any, error: Error, file_id: str) -> None:
    body = {"model": BASE, "training_file": file_id, "hyperparameters": {"target_modules": "q_proj"}}
    found = error(gateway.http.post("/v1/fine_tuning/jobs", json=body), 400, "invalid_parameter")
    assert all(name in found["message"] for name in ("all-linear", *LINEAR_KINDS))


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.path == "/narrowcast/health"
        body = self.server.health  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _served(gateway: Any, health: bytes) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Health) as server:
        server.health = health  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        gateway.services.training._servers = ServersSettings.model_validate({"bases": {BASE: url}})
        yield
        server.shutdown()


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        (b'{"base_fingerprint": "abc", "accepted_fingerprints": ["abc", "def"]}', ("abc", "def")),
        (b'{"base_fingerprint": "abc"}', ()),
        (b"not json", ()),
        (b"[]", ()),
    ],
)
def test_the_job_knows_which_base_is_served(
    gateway: Any, file_id: str, health: bytes, expected: tuple[str, ...]
) -> None:
    with _served(gateway, health):
        job = gateway.http.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id}).json()
    stored = gateway.services.training.get(gateway.tenant, job["id"]).spec
    assert TrainingSpec.model_validate(stored).served_fingerprints == expected
    warned = gateway.http.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
    assert [event["data"]["code"] for event in warned] == ([] if expected else ["served_base_unknown"])


def test_rows_longer_than_what_is_served_are_refused_and_not_the_default(gateway: Any, file_id: str) -> None:
    body: dict[str, Any] = {"model": BASE, "training_file": file_id}
    with _served(gateway, b'{"accepted_fingerprints": ["abc"], "max_model_len": 1024}'):
        job = gateway.http.post("/v1/fine_tuning/jobs", json=body).json()
        assert job["hyperparameters"]["max_length"] == 1024
        answers = [
            gateway.http.post("/v1/fine_tuning/jobs", json=body | {"hyperparameters": {"max_length": length}})
            for length in (1024, 1025)
        ]
    assert [answer.status_code for answer in answers] == [200, 400]
    error = answers[1].json()["error"]
    assert (error["code"], error["param"]) == ("max_length_not_served", "hyperparameters.max_length")
    assert "1025" in error["message"]
    assert "1024" in error["message"]


def test_estimates_and_previews_refuse_what_a_job_would_be_refused_for(gateway: Any, file_id: str) -> None:
    asked = {"model": BASE, "training_file": file_id, "hyperparameters": {"max_length": 1025}}
    with _served(gateway, b'{"accepted_fingerprints": ["abc"], "max_model_len": 1024}'):
        services = gateway.services
        services.estimates._servers = services.previews._servers = services.training._servers
        for path in ("jobs", "estimates", "previews"):
            answer = gateway.http.post(f"/v1/fine_tuning/{path}", json=asked)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "max_length_not_served"), (
                path
            )


def test_the_default_rank_is_one_that_is_served(gateway: Any, file_id: str) -> None:
    gateway.services.training._servers = ServersSettings.model_validate(
        {"bases": gateway.settings.servers.bases, "max_lora_rank": 16}
    )
    body = {"model": BASE, "training_file": file_id}
    hyperparameters = gateway.http.post("/v1/fine_tuning/jobs", json=body).json()["hyperparameters"]
    assert (hyperparameters["rank"], hyperparameters["alpha"]) == (16, 16)


def test_events_are_paged_from_the_newest(gateway: Any, file_id: str) -> None:
    job_id = gateway.http.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id}).json()[
        "id"
    ]
    for number in range(5):
        gateway.services.connections.jobs.add_event(job_id, f"event {number}")
    first = gateway.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=3").json()
    assert [event["message"] for event in first["data"]] == ["event 4", "event 3", "event 2"]
    assert first["has_more"]
    after = first["data"][-1]["id"]
    rest = gateway.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=3&after={after}").json()
    assert [event["message"] for event in rest["data"][:2]] == ["event 1", "event 0"]
    assert rest["data"][2]["data"]["code"] == "served_base_unknown"  # its first one
    assert not rest["has_more"]


def test_a_page_after_nothing_is_refused(gateway: Any, error: Error) -> None:
    found = error(gateway.http.get("/v1/fine_tuning/jobs?after=ftjob-0"), 404, "not_found")
    assert found["param"] == "after"


def test_a_sweep_needs_rows_to_compare_its_trials_by(gateway: Any, file_id: str, error: Error) -> None:
    body = {"model": BASE, "training_file": file_id}
    hyperparameters = {"rank": 16, "n_trials": 5}
    asked = body | {"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}
    refused = gateway.http.post("/v1/fine_tuning/jobs", json=asked)
    assert error(refused, 400, "sweep_without_validation")["param"] == "validation_file"
    accepted = gateway.http.post("/v1/fine_tuning/jobs", json=asked | {"validation_file": file_id}).json()
    assert accepted["hyperparameters"]["n_trials"] == 5
    # The default space, around the job's own values.
    assert accepted["hyperparameters"]["sweep"]["rank"] == [8, 16]
    assert (accepted["trials"], accepted["best_trial"]) == ([], None)


@pytest.mark.parametrize(
    ("space", "code", "param"),
    [
        ({"rank": [8, 128]}, "unservable_adapter", "hyperparameters.sweep.rank"),
        ({"learning_rate": [1e-3, 1e-4]}, "invalid_parameter", "hyperparameters.sweep.learning_rate"),
        ({"alpha": [8, 16]}, "invalid_parameter", "hyperparameters.sweep.alpha"),
    ],
)
def test_a_space_that_cannot_be_trained_or_served_is_refused(
    gateway: Any, file_id: str, error: Error, space: dict[str, Any], code: str, param: str
) -> None:
    body = {"model": BASE, "training_file": file_id, "validation_file": file_id}
    asked = body | {"hyperparameters": {"n_trials": 3, "sweep": space}}
    assert error(gateway.http.post("/v1/fine_tuning/jobs", json=asked), 400, code)["param"] == param
