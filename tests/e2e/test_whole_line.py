"""Documents in, a served adapter out: one story, told in the order in which a site lives it.

The tests of this module build on one another and run in the order they stand in.
"""

import io
import json
import os
import re
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from transformers import AutoTokenizer

from narrowcast import prompts
from narrowcast.adapters import AdapterManifest, adapter_prefix
from narrowcast.artifacts import fetch, read_manifest

from .caller import export, follow
from .llama import Llama, Reference, chat_template, go_rendered

STATE: dict[str, Any] = {}
TOKENS = 32
"""Of an answer, compared one by one."""
TIES = {"vllm": 0.25, "f16": 0.05, "base and lora": 0.05}
"""By how much two tokens' logits may differ where a rounding decides between them: bfloat16 has 8 bits, float16
11. 8 and 4 bits are approximations, which may say something else."""


def test_documents_become_a_dataset_without_personal_data(site: Any, corpus: Any) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in corpus.files:
            archive.writestr(name, data)
    response = site.http.post("/v1/corpora", files={"files": ("corpus.zip", buffer.getvalue())})
    assert response.status_code == 202, response.text
    done = follow(site.http, f"/v1/corpora/{response.json()['id']}", 120)
    assert done["status"] == "succeeded", done
    assert done["documents"] == {"total": 60, "read": 60, "rejected": 0}
    STATE["dataset"] = done["dataset"]

    text = site.http.get(f"/v1/datasets/{done['dataset']}/content?format=json").text
    rows = json.loads(text)
    assert len(rows) == 60
    leaked = {datum.text for report in corpus.reports for datum in report.personal if datum.text in text}
    assert not leaked


def test_a_dataset_that_does_not_exist_is_refused(site: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        site.openai.fine_tuning.jobs.create(model=site.stack.base_model, training_file="dataset-" + "0" * 24)


def test_the_official_client_handles_files_and_jobs(site: Any) -> None:
    row = {"instruction": "Опиши", "input": "Норма", "output": "Без особенностей."}
    data = (json.dumps(row, ensure_ascii=False) + "\n").encode()
    file = site.openai.files.create(file=("rows.jsonl", data), purpose="fine-tune")
    assert site.openai.files.retrieve(file.id).bytes == len(data)
    assert file.id in [listed.id for listed in site.openai.files.list()]
    assert site.openai.files.content(file.id).read() == data
    job = site.openai.fine_tuning.jobs.create(model=site.stack.base_model, training_file=file.id)
    cancelled = site.openai.fine_tuning.jobs.cancel(job.id)
    assert follow(site.http, f"/v1/fine_tuning/jobs/{job.id}", 120)["status"] == "cancelled"
    assert cancelled.id in [listed.id for listed in site.openai.fine_tuning.jobs.list(limit=1)]
    assert site.openai.files.delete(file.id).deleted


def test_training_survives_kill_9_of_its_process_group(site: Any) -> None:
    job = site.openai.fine_tuning.jobs.create(
        model=site.stack.base_model,
        training_file=STATE["dataset"],
        suffix="e2e",
        seed=1,
        extra_body={
            "method": {
                "type": "supervised",
                "supervised": {
                    "hyperparameters": {
                        "n_epochs": 1,
                        "batch_size": 8,
                        "learning_rate": 2e-3,
                        "rank": 8,
                        "alpha": 16,
                        "max_length": 512,
                    }
                },
            }
        },
    )
    path = f"/v1/fine_tuning/jobs/{job.id}"
    started = follow(site.http, path, 240, until=lambda state: bool(state["progress"].get("step")))
    assert started["status"] == "running", started
    kill_trainer(site.stack)
    done = follow(site.http, path, 400)
    assert done["status"] == "succeeded", done
    events = site.openai.fine_tuning.jobs.list_events(job.id, limit=100).data
    assert any("lost" in event.message for event in events), [event.message for event in events]
    losses = [
        event.data["train_loss"]
        for event in events
        if event.type == "metrics" and event.data.get("train_loss")
    ]
    assert losses
    STATE["adapter"] = site.openai.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert STATE["adapter"].startswith("e2e-")


def test_its_card_shows_the_whole_training(site: Any) -> None:
    job = next(iter(site.openai.fine_tuning.jobs.list(limit=1)))
    shown = site.http.get(f"/v1/fine_tuning/jobs/{job.id}").json()
    card = site.http.get(shown["training_card"]).json()
    assert card["adapter"] == STATE["adapter"]
    steps = [point["step"] for point in card["history"]]
    assert steps == list(range(1, card["configuration"]["planned_steps"] + 1)), "before and after the kill"
    assert card["data"]["dataset"] == STATE["dataset"]
    text = site.http.get(f"{shown['training_card']}.md")
    assert "## Time and memory" in text.text
    for name, start in (("loss.png", b"\x89PNG"), ("loss.svg", b"<?xml")):
        assert site.http.get(f"/v1/adapters/{STATE['adapter']}/{name}").content.startswith(start)
    table = site.openai.files.content(shown["result_files"][0]).text.splitlines()
    assert len(table) == 1 + len(steps)


def kill_trainer(stack: Any) -> None:
    """Kill the Celery worker and everything below it at once, as a crashed node would."""
    worker = psutil.Process(stack.processes()["trainer"]["pid"])
    family = [worker, *worker.children(recursive=True)]
    assert len(family) >= 3, "worker, pool process, training process"
    for process in family:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=10)


def test_the_adapter_is_served_without_a_restart(site: Any) -> None:
    site.stack.wait_until("vLLM", site.stack.inference_ready, 300)
    pid = site.stack.processes()["inference"]["pid"]
    models = [model.id for model in site.openai.models.list()]
    assert site.stack.base_model in models
    assert STATE["adapter"] in models

    row = site.http.get(f"/v1/datasets/{STATE['dataset']}/content?format=json&split=test").json()[0]
    messages = prompts.prompt_messages(row["instruction"], row["input"])
    first = site.openai.chat.completions.create(
        model=STATE["adapter"], messages=messages, temperature=0, max_tokens=40
    )
    assert first.model == STATE["adapter"]
    # From here on the prompt is in the prefix cache. Without it vLLM multiplies matrices of another shape, and
    # bf16 rounds otherwise: an adapter of one epoch has ties that this decides.
    chunks = list(
        site.openai.chat.completions.create(
            model=STATE["adapter"], messages=messages, temperature=0, max_tokens=40, stream=True
        )
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert {chunk.model for chunk in chunks} == {STATE["adapter"]}
    whole = site.openai.chat.completions.create(
        model=STATE["adapter"], messages=messages, temperature=0, max_tokens=40
    )
    assert whole.choices[0].message.content == streamed
    base = site.openai.chat.completions.create(
        model=site.stack.base_model, messages=messages, temperature=0, max_tokens=40
    )
    assert base.choices[0].message.content != streamed, "the adapter changes the answer"
    assert re.search("[а-яё]", streamed)
    assert site.stack.processes()["inference"]["pid"] == pid


def test_vllm_receives_the_tokens_that_were_trained_on(site: Any, base_model: Any) -> None:
    row = site.http.get(f"/v1/datasets/{STATE['dataset']}/content?format=json&split=train").json()[0]
    messages = prompts.prompt_messages(row["instruction"], row["input"])
    answer = site.http.post(
        "/v1/chat/completions",
        json={"model": STATE["adapter"], "messages": messages, "max_tokens": 1, "return_token_ids": True},
    ).json()
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    trained = tokenizer.apply_chat_template(
        messages + prompts.completion_messages(row["output"]), return_dict=False
    )
    received = answer["prompt_token_ids"]
    assert trained[: len(received)] == received
    assert len(trained) > len(received)


def test_an_estimate_measures_the_rows_of_its_file(site: Any) -> None:
    asked = {"model": site.stack.base_model, "training_file": STATE["dataset"]}
    preview = site.http.post("/v1/fine_tuning/previews", json=asked | {"whole_file": True}).json()
    found = site.http.post("/v1/fine_tuning/estimates", json=asked).json()
    rows, summary = preview["rows_in_file"], preview["summary"]
    assert 0 < found["measured_rows"] <= rows == found["rows"]
    assert found["tokens_per_row"] == pytest.approx(summary["tokens"] / rows, rel=0.1)
    assert found["longest_row"] == summary["longest_row_tokens"]


def test_a_report_is_drafted_for_an_impression(site: Any) -> None:
    report = site.http.post(
        "/v1/reports",
        json={"impression": "Киста Бейкера справа.", "model": STATE["adapter"], "max_tokens": 200},
    ).json()
    assert report["object"] == "report"
    assert re.search("[а-яё]{4}", report["description"])
    assert report["usage"]["completion_tokens"] > 5


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "no-such-model"}, 404, "model_not_found"),
        ({"model": "e2e-" + "0" * 24}, 404, "model_not_found"),
        ({"messages": [{"role": "user", "content": "диск " * 4000}]}, 400, "context_length_exceeded"),
        ({"messages": []}, 400, "invalid_parameter"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}
                ]
            },
            400,
            "invalid_parameter",
        ),
        ({"chat_template": "{{ x }}"}, 400, "invalid_parameter"),
        ({"max_tokens": 1_000_000}, 400, "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_generation_requests(
    site: Any, body: dict[str, Any], status: int, code: str, stream: bool
) -> None:
    request = {
        "model": STATE["adapter"],
        "messages": [{"role": "user", "content": "x"}],
        "stream": stream,
    } | body
    response = site.http.post("/v1/chat/completions", json=request)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text


def test_another_tenant_cannot_use_the_adapter(site: Any) -> None:
    with site.as_tenant("cardiology") as stranger:
        body = {"model": STATE["adapter"], "messages": [{"role": "user", "content": "x"}]}
        assert stranger.post("/v1/chat/completions", json=body).status_code == 404
        assert (
            stranger.post("/v1/reports", json={"model": STATE["adapter"], "impression": "x"}).status_code
            == 404
        )
        assert stranger.get(f"/v1/adapters/{STATE['adapter']}").status_code == 404
        assert [model["id"] for model in stranger.get("/v1/models").json()["data"]] == [site.stack.base_model]
        evaluation = {"dataset": STATE["dataset"], "models": [site.stack.base_model]}
        assert stranger.post("/v1/evaluations", json=evaluation).status_code == 404


def test_evaluation_against_base_and_nearest_report(site: Any) -> None:
    body = {
        "dataset": STATE["dataset"],
        "models": [site.stack.base_model, STATE["adapter"]],
        "max_tokens": 200,
        "max_rows": 3,
    }
    created = site.http.post("/v1/evaluations", json=body)
    assert created.status_code == 202, created.text
    path = f"/v1/evaluations/{created.json()['id']}"
    done = follow(site.http, path, 240)
    assert done["status"] == "succeeded", done
    rouge = {result["kind"]: result["rouge"]["rougeL"]["f1"] for result in done["results"]}
    assert set(rouge) == {"base", "adapter", "baseline"}
    assert all(0 <= value <= 1 for value in rouge.values())
    assert rouge["adapter"] > rouge["base"]
    answers = [json.loads(line) for line in site.http.get(f"{path}/predictions").text.splitlines()]
    assert len(answers) == done["rows"] == 3
    unknown = site.http.post("/v1/evaluations", json=body | {"models": ["no-such-model"]})
    assert unknown.status_code == 404


def test_exports_run_by_llama_cpp_answer_as_vllm_does(
    site: Any, base_model: Path, llama_cpp: Path, tmp_path: Path, record_property: Any
) -> None:
    """Greedy answers are one, but where roundings decide between two tokens that are as likely.

    vLLM adds the adapter to bfloat16 weights as it goes, a GGUF has their sum in 16, 8 or 4 bits. The
    judge is transformers with PEFT in float32: who leaves its answer does so at a tie.
    """
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    row = site.http.get(f"/v1/datasets/{STATE['dataset']}/content?format=json&split=test").json()[0]
    messages = prompts.prompt_messages(row["instruction"], row["input"])
    body = {"model": STATE["adapter"], "messages": messages, "max_tokens": TOKENS, "temperature": 0}
    served = site.http.post("/v1/chat/completions", json=body | {"return_token_ids": True}).json()
    adapter, models = tmp_path / "adapter", site.stack.storage().models
    prefix = adapter_prefix("radiology", STATE["adapter"])
    fetch(models, prefix, read_manifest(models, prefix, AdapterManifest), adapter)
    exact = Reference(tokenizer, base_model, adapter, served["prompt_token_ids"], TOKENS)
    answers = {"vllm": exact.bytes_of(served["choices"][0]["token_ids"])}

    whole = export(site.http, tmp_path, adapter=STATE["adapter"], format="gguf", quantization="f16")
    model = whole["model-f16.gguf"]
    prompt = go_rendered(whole["Modelfile"].read_text(), messages)
    llama = Llama(llama_cpp, tmp_path)
    assert llama.token_ids(model, prompt) == served["prompt_token_ids"], "what Ollama sends is what vLLM saw"
    assert chat_template(model) == tokenizer.chat_template
    answers["f16"] = llama.answer(model, prompt, TOKENS)
    for quantization in ("q8_0", "q4_k_m"):
        files = export(
            site.http, tmp_path, adapter=STATE["adapter"], format="gguf", quantization=quantization
        )
        answers[quantization] = llama.answer(files[f"model-{quantization}.gguf"], prompt, TOKENS)
    alone = export(site.http, tmp_path, adapter=STATE["adapter"], format="lora-gguf")["adapter-f16.gguf"]
    base = llama.convert(base_model)
    answers["base and lora"] = llama.answer(base, prompt, TOKENS, lora=alone)
    answers["base"] = llama.answer(base, prompt, TOKENS)

    found = {name: exact.parting(answer) for name, answer in answers.items()}
    print(f"of {len(exact.ids)} tokens (how many agree, the tie that parts): {found}")
    record_property("agreement_with_float32", found)
    for name, tie in TIES.items():
        assert found[name][1] <= tie, name
    assert found["f16"][0] > found["base"][0]
    assert re.search("[а-яё]{4}", answers["q4_k_m"].decode(errors="replace"))


def test_a_running_job_is_cancelled(site: Any) -> None:
    job = site.openai.fine_tuning.jobs.create(model=site.stack.base_model, training_file=STATE["dataset"])
    path = f"/v1/fine_tuning/jobs/{job.id}"
    running = follow(site.http, path, 120, until=lambda state: state["status"] == "running")
    assert running["status"] == "running", running
    site.openai.fine_tuning.jobs.cancel(job.id)
    done = follow(site.http, path, 90)
    assert (done["status"], done["fine_tuned_model"]) == ("cancelled", None)


def test_originals_are_gone(site: Any) -> None:
    bucket = site.stack.storage().documents
    deadline = time.monotonic() + 30
    while list(bucket.keys("")) and time.monotonic() < deadline:
        time.sleep(1)
    assert list(bucket.keys("")) == []


def test_no_log_holds_personal_data_or_report_text(site: Any, corpus: Any) -> None:
    logs = site.logs()
    assert len(logs) > 10_000
    values = {datum.text for report in corpus.reports for datum in report.personal}
    sentences = {
        sentence.strip()
        for report in corpus.reports
        for sentence in f"{report.description} {report.conclusion}".split(". ")
        if len(sentence) > 20
    }
    assert not {value for value in values | sentences if value in logs}
    escaped = {json.dumps(value)[1:-1] for value in values}
    assert not {value for value in escaped if len(value) > 12 and value in logs}


def test_logs_carry_ids(site: Any) -> None:
    for name, field in (("gateway", "request_id"), ("worker", "job_id"), ("trainer", "job_id")):
        lines = (site.stack.logs / f"{name}.log").read_text().splitlines()
        # Celery prints this one itself.
        lines = [line for line in lines if line and "Warm shutdown" not in line]
        assert any(field in json.loads(line) for line in lines), name


def test_nothing_is_left_running_after_the_stack_stops(site: Any) -> None:
    children = psutil.Process(os.getpid()).children(recursive=True)
    STATE["pids"] = [child.pid for child in children]
    site.stack.stop()
    alive = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not alive
