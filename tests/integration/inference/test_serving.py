"""Real vLLM with our resolver, a real S3 server and real adapters. One start for all tests here."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("vllm")

from narrowcast.adapters import ADAPTER_WEIGHTS, adapter_prefix
from narrowcast.storage import Bucket
from narrowcast_gateway.adapters.service import ModelTarget
from narrowcast_gateway.generation.client import InferenceClient

from .conftest import Publish, RunVllm

MONITORING = Path(__file__).parents[3] / "deploy" / "monitoring"
BASE = "small"
TENANT = "clinic"
SEEDS = {"first-adapter": 5, "second-adapter": 1, "third-adapter": 3}
"""Chosen so that the four models tell themselves apart by the first token's probability."""
ROUNDING = 0.25
"""Of bfloat16 under adapters as rough as these; transformers alone differs by 0.13 from its float32."""
PROMPT = "Синдром выдуманного Тестомирова"


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    url: str
    cache: Path
    log: Path

    def ask(self, model: str, tokens: int = 24, prompt: str = PROMPT) -> httpx.Response:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=120)

    def answer(self, model: str, tokens: int = 24, prompt: str = PROMPT) -> str:
        response = self.ask(model, tokens, prompt)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])

    def first_logprob(self, model: str) -> float:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
        }
        response = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=120)
        return float(response.json()["choices"][0]["logprobs"]["content"][0]["logprob"])

    def metrics(self) -> dict[str, float]:
        """Every sample of ``/metrics``, by its text up to the value."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def events(self, event: str, adapter: str) -> list[dict[str, object]]:
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event and adapter in str(line.get("adapter"))]


@pytest.fixture(scope="module")
def server(run_vllm: RunVllm) -> Iterator[Server]:
    # Two slots for three adapters: they have to make room for one another.
    with run_vllm(BASE, max_loras=2, max_cpu_loras=2) as vllm:
        yield Server(vllm.process, f"http://127.0.0.1:{vllm.port}", vllm.folder / "cache", vllm.log)


def test_an_adapter_published_while_vllm_runs_is_served(server: Server, publish_adapter: Publish) -> None:
    publish_adapter(TENANT, "first-adapter", seed=SEEDS["first-adapter"])
    base = server.first_logprob(BASE)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(server.first_logprob, [f"{TENANT}/first-adapter"] * 6))
    assert min(abs(answer - base) for answer in answers) > 2 * ROUNDING
    assert len(server.events("adapter fetched", "first-adapter")) == 1
    assert (server.cache / "adapters" / TENANT / "first-adapter" / ADAPTER_WEIGHTS).exists()


@pytest.fixture(scope="module")
def reference(base_model: Path, make_adapter: Callable[[int], Path]) -> dict[int | None, float]:
    """The log-probability of the likeliest first token by transformers and PEFT; None is the base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    chat = [{"role": "user", "content": PROMPT}]
    tokens: Any = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    found: dict[int | None, float] = {}
    for seed in (None, *SEEDS.values()):
        model: Any = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        if seed is not None:
            model = PeftModel.from_pretrained(model, make_adapter(seed))
        with torch.no_grad():
            found[seed] = model(**tokens).logits[0, -1].float().log_softmax(-1).max().item()
    return found


def test_base_and_adapters_in_one_batch_answer_as_peft_does(
    server: Server, publish_adapter: Publish, reference: dict[int | None, float]
) -> None:
    models: dict[int | None, str] = {None: BASE}
    for adapter, seed in SEEDS.items():
        models[seed] = f"{TENANT}/{publish_adapter(TENANT, adapter, seed=seed)}"
    far_apart = [abs(a - b) for a, b in combinations(reference.values(), 2)]
    assert min(far_apart) > 2 * ROUNDING, reference
    for _ in range(2):  # the second time everything is loaded, and evicted for one another
        with ThreadPoolExecutor(8) as pool:
            together = dict(zip(models, pool.map(server.first_logprob, models.values()), strict=True))
        assert together == pytest.approx(reference, abs=ROUNDING)


def test_what_is_not_served_says_why_and_leaves_nothing(
    server: Server, publish_adapter: Publish, models: Bucket
) -> None:
    publish_adapter(TENANT, "foreign-adapter", base="0" * 64)
    publish_adapter(TENANT, "corrupt-adapter")
    models.put(adapter_prefix(TENANT, "corrupt-adapter") + ADAPTER_WEIGHTS, b"not these bytes")
    expected = {
        f"{TENANT}/foreign-adapter": ("wrong_base_model", 422),
        f"{TENANT}/corrupt-adapter": ("corrupt_artifact", 409),
        f"{TENANT}/absent-adapter": ("not_found", 404),
        "other/first-adapter": ("not_found", 404),
        f"{TENANT}/../{TENANT}/first-adapter": ("not_found", 404),
    }
    for name, (code, status) in expected.items():
        response = server.ask(name)
        assert (response.status_code, response.headers["x-narrowcast-error-code"]) == (404, code), name
        assert "Traceback" not in response.text
        if ".." not in name:
            asked = httpx.get(f"{server.url}/narrowcast/adapters/{name}", timeout=30)
            assert (asked.status_code, asked.json()["error"]["code"]) == (status, code)
    left = {path.name for path in (server.cache / "adapters" / TENANT).iterdir()}
    assert not left & {"foreign-adapter", "corrupt-adapter", "absent-adapter"}
    assert not [name for name in left if name.startswith(".")]


def test_nobody_loads_an_adapter_past_the_object_store(server: Server, base_model: Path) -> None:
    body = {"lora_name": "x", "lora_path": str(base_model)}
    assert httpx.post(f"{server.url}/v1/load_lora_adapter", json=body).status_code == 404
    assert httpx.get(f"{server.url}/narrowcast/health").json()["base_model"] == BASE


def test_an_adapter_is_fetched_ahead_of_its_first_request(server: Server, publish_adapter: Publish) -> None:
    publish_adapter(TENANT, "early-adapter", seed=1)
    answer = httpx.get(f"{server.url}/narrowcast/adapters/{TENANT}/early-adapter", timeout=30)
    assert answer.json() == {"id": f"{TENANT}/early-adapter", "status": "ready"}
    assert server.answer(f"{TENANT}/early-adapter")
    assert len(server.events("adapter fetched", "early-adapter")) == 1


def test_a_prompt_that_is_too_long_is_refused(server: Server) -> None:
    assert server.ask(BASE, prompt="слово " * 3000).status_code == 400


async def test_a_tenant_cannot_tell_what_another_has_asked_the_base(server: Server) -> None:
    """A prompt that is in vLLM's cache is answered sooner."""

    def hits() -> float:
        return sum(n for name, n in server.metrics().items() if "prefix_cache_hits_total" in name)

    found = []
    message = {"role": "user", "content": "Синдром Тестомирова, дважды описанный. " * 20}
    async with httpx.AsyncClient(timeout=120) as http:
        for tenant in ("ward", "other", "ward"):
            before = hits()
            target = ModelTarget(name=BASE, served_as=BASE, url=server.url, adapter=None, tenant=tenant)
            body = {"model": BASE, "messages": [message], "max_tokens": 1}
            await InferenceClient(http).complete(target, body)
            found.append(hits() > before)
    assert found == [False, False, True]


def test_our_metrics_and_the_dashboard_s_are_in_vllms_own(server: Server, publish_adapter: Publish) -> None:
    before = server.metrics()
    publish_adapter(TENANT, "counted-adapter", seed=1)
    publish_adapter(TENANT, "misfit-adapter", base="0" * 64)
    assert server.answer(f"{TENANT}/counted-adapter")
    assert server.ask(f"{TENANT}/misfit-adapter").status_code == 404
    after = server.metrics()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown('narrowcast_adapter_loads_total{outcome="loaded"}') == 1
    assert grown('narrowcast_adapter_loads_total{outcome="wrong_base_model"}') == 1
    assert grown("narrowcast_adapter_load_duration_seconds_count") == 1
    assert grown("narrowcast_adapters_cached") == 1
    weights = server.cache / "adapters" / TENANT / "counted-adapter" / ADAPTER_WEIGHTS
    assert grown("narrowcast_adapter_fetched_bytes_total") >= weights.stat().st_size
    ours = "\n".join(name for name in after if name.startswith("narrowcast_"))
    assert not [text for text in (TENANT, "counted", "misfit", BASE) if text in ours]

    dashboard = (MONITORING / "grafana" / "dashboards" / "narrowcast.json").read_text()
    asked = set(re.findall(r"vllm:\w+", dashboard))
    assert len(asked) >= 9
    assert asked - {name.partition("{")[0] for name in after} == set()


def test_stopping_lets_requests_finish_and_no_prompt_was_logged(
    server: Server, publish_adapter: Publish
) -> None:
    publish_adapter(TENANT, "last-adapter", seed=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.ask, f"{TENANT}/last-adapter", 60)
        time.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        response = running.result()
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] == 60
    assert server.process.wait(60) in {0, -signal.SIGTERM}
    log = server.log.read_text()
    assert "Тестомиров" not in log
    assert "слово слово" not in log
    assert "\\u0422\\u0435\\u0441\\u0442" not in log
