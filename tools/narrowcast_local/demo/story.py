"""The steps. Everything goes through the gateway's HTTP, as a hospital's engineer would do it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from narrowcast_local.demo import corpus
from narrowcast_local.demo.report import DemoReport, Documents
from narrowcast_local.demo.show import METRICS, Bar, Show
from narrowcast_local.stack import LocalStack, StackFailed

TENANT = "radiology"
_POLL_S = 0.5
_START_S = 300.0
_TIMEOUT = httpx.Timeout(300.0, connect=5.0)
_ENDED = {"succeeded", "failed", "cancelled"}
_HYPERPARAMETERS = {
    # A 135M-parameter model on two cores in a few minutes: a small rank and a high rate. The
    # defaults are the paper's, for an 8B model on a GPU.
    "n_epochs": 2,
    "batch_size": 2,
    "learning_rate": 2e-3,
    "rank": 16,
    "alpha": 32,
    "max_length": 512,
}
_MAX_TOKENS = 320
_IMPRESSION_STUDY = "МРТ головного мозга"


class Story:
    """One telling of the demo."""

    def __init__(self, stack: LocalStack, show: Show, report: DemoReport) -> None:
        self._stack = stack
        self._show = show
        self._report = report
        self._http = httpx.Client(base_url=stack.url, timeout=_TIMEOUT, trust_env=False)

    def tell(self) -> None:
        """Run every step; raise at the first that does not hold."""
        with self._report.step("start"):
            self._start()
        with self._report.step("corpus"):
            dataset = self._corpus()
        with self._report.step("training"):
            job = self._training(dataset)
        with self._report.step("serving"):
            self._serving(dataset, job)
        with self._report.step("evaluation"):
            self._evaluation(dataset, job["fine_tuned_model"])

    # -- steps ---------------------------------------------------------------------------

    def _start(self) -> None:
        self._show.title(1, "Start: Valkey, S3, gateway, CPU worker, trainer, vLLM")
        with self._show.progress("starting") as bar:
            self._stack.start()
            self._stack.wait_until(
                "the gateway",
                self._stack.gateway_ready,
                _START_S,
                lambda: bar.update(note=_states(self._stack)),
            )
            bar.finish(f"gateway on {self._stack.url}, logs in {self._stack.logs}")
        self._http.headers["Authorization"] = f"Bearer {self._stack.api_key(TENANT)}"
        self._show.say(
            f"vLLM goes on starting in the background. An API key for tenant [b]{TENANT}[/] was made."
        )

    def _corpus(self) -> str:
        self._show.title(2, "Word documents become a de-identified dataset")
        made = corpus.build(self._stack.folder / "corpus.zip")
        generated = len(made.reports) - made.shipped
        self._show.say(
            f"{made.shipped} sample files (half .docx, half binary .doc) and {generated} more from the same "
            "generator. All patients are invented."
        )
        self._show.request("POST", "/v1/corpora", "files=@corpus.zip")
        with made.archive.open("rb") as file:
            form = {"validation": "0.05", "test": "0.1"}
            created = self._post("/v1/corpora", files={"files": file}, data=form)
        self._show.answer({"id": created["id"], "status": created["status"]})

        def show(state: dict[str, Any], bar: Bar) -> None:
            counts = state["documents"]
            done = counts["read"] + counts["rejected"]
            bar.update(done, counts["total"], f"{counts['read']} read, {counts['rejected']} rejected")

        state = self._follow(f"/v1/corpora/{created['id']}", "reading and de-identifying", show)
        self._report.documents = Documents(
            read=state["documents"]["read"], rejected=state["documents"]["rejected"]
        )
        dataset = str(state["dataset"])
        self._show.answer({key: state[key] for key in ("dataset", "documents", "redactions")})

        self._show.request("GET", f"/v1/datasets/{dataset}/content?format=json")
        rows = self._get(f"/v1/datasets/{dataset}/content?format=json")
        self._show.answer(rows[0])
        leaks = made.leaks([f"{row['instruction']}\n{row['input']}\n{row['output']}" for row in rows])
        self._report.leaked = len(leaks)
        described = self._get(f"/v1/datasets/{dataset}")
        self._show.say(f"Rows: {described['rows']}. Personal data left in them: [b]{len(leaks)}[/].")
        _hold(not leaks, f"{len(leaks)} pieces of personal data are left in the dataset")
        _hold(state["documents"]["read"] >= 0.95 * len(made.reports), "too many documents were rejected")
        return dataset

    def _training(self, dataset: str) -> dict[str, Any]:
        self._show.title(3, "The dataset trains an adapter")
        body = {
            "model": self._stack.base_model,
            "training_file": dataset,
            "suffix": "mri",
            "method": {"type": "supervised", "supervised": {"hyperparameters": _HYPERPARAMETERS}},
        }
        self._show.request("POST", "/v1/fine_tuning/jobs", body)
        created = self._post("/v1/fine_tuning/jobs", json=body)
        self._show.answer({"id": created["id"], "status": created["status"]})

        def show(state: dict[str, Any], bar: Bar) -> None:
            progress = state["progress"]
            eta = progress.get("eta_s")
            note = (
                state["status"]
                if eta is None
                else f"{progress.get('tokens_per_s') or 0:.0f} tokens/s, {eta:.0f} s to go"
            )
            bar.update(progress.get("step"), progress.get("total_steps"), note)

        job = self._follow(f"/v1/fine_tuning/jobs/{created['id']}", "training", show)
        self._report.training = job["metrics"]
        points = [
            (event["data"]["step"], event["data"]["train_loss"])
            for event in self._events(created["id"])
            if event["type"] == "metrics" and event["data"].get("train_loss") is not None
        ]
        self._show.loss_chart(sorted(points))
        self._show.answer(
            {key: job[key] for key in ("status", "fine_tuned_model", "trained_tokens", "metrics")}
        )
        _hold(len(points) > 1, "the job reported no loss")
        return job

    def _serving(self, dataset: str, job: dict[str, Any]) -> None:
        self._show.title(4, "vLLM serves the adapter, without a restart")
        with self._show.progress("waiting for vLLM") as bar:
            self._stack.wait_until("vLLM", self._stack.inference_ready, _START_S, bar.update)
            bar.finish("up")
        adapter = job["fine_tuned_model"]
        models = self._get("/v1/models")
        self._show.request("GET", "/v1/models")
        self._show.answer([model["id"] for model in models["data"]])
        _hold(adapter in [model["id"] for model in models["data"]], "the adapter is not listed")

        row = self._get(f"/v1/datasets/{dataset}/content?format=json&split=test")[0]
        seconds = self._first_token(adapter, row)
        self._report.time_to_first_token_s = round(seconds, 3)
        self._show.say(
            f"First request for [b]{adapter}[/]: vLLM fetched it from S3, checked it, loaded it; "
            f"first token after [b]{seconds:.2f} s[/]."
        )
        impression = {"impression": row["input"], "study": _study_of(row)}
        self._show.request("POST", "/v1/reports", impression | {"model": adapter})
        drafts = {}
        for title, model in (("base model", self._stack.base_model), ("adapter", adapter)):
            with self._show.progress(f"{title} writes") as bar:
                draft = self._post(
                    "/v1/reports", json=impression | {"model": model, "max_tokens": _MAX_TOKENS}
                )
                bar.finish(f"{draft['usage']['completion_tokens']} tokens")
            drafts[title] = draft["description"]
        self._show.side_by_side(row["input"], {**drafts, "the doctor wrote": row["output"]})
        _hold(bool(drafts["adapter"]), "the adapter wrote nothing")
        _hold(drafts["adapter"] != drafts["base model"], "adapter and base wrote the same")

    def _evaluation(self, dataset: str, adapter: str) -> None:
        self._show.title(5, "How good is it? ROUGE against copying the nearest report")
        body = {"dataset": dataset, "models": [self._stack.base_model, adapter], "max_tokens": _MAX_TOKENS}
        self._show.request("POST", "/v1/evaluations", body)
        created = self._post("/v1/evaluations", json=body)

        def show(state: dict[str, Any], bar: Bar) -> None:
            progress = state["progress"]
            bar.update(progress.get("done"), progress.get("total"), f"{progress.get('done', 0)} answers")

        evaluation = self._follow(f"/v1/evaluations/{created['id']}", "generating and scoring", show)
        for result in evaluation["results"]:
            name = result["model"] if result["kind"] == "baseline" else result["kind"]
            self._report.rouge[name] = {metric: round(result["rouge"][metric]["f1"], 4) for metric in METRICS}
        self._show.rouge_table(self._report.rouge)
        self._show.say(f"{evaluation['rows']} reports; tokenizer {evaluation['tokenizer']}.")
        base, tuned = self._report.rouge["base"], self._report.rouge["adapter"]
        _hold(
            all(tuned[metric] > 1.5 * base[metric] for metric in METRICS),
            "the adapter does not clearly beat its base",
        )

    # -- HTTP ----------------------------------------------------------------------------

    def _get(self, path: str) -> Any:
        return _checked(self._http.get(path))

    def _post(self, path: str, **content: Any) -> Any:
        return _checked(self._http.post(path, **content))

    def _follow(self, path: str, what: str, show: Callable[[dict[str, Any], Bar], None]) -> dict[str, Any]:
        """Poll until the job has ended."""
        with self._show.progress(what) as bar:
            while True:
                state: dict[str, Any] = self._get(path)
                show(state, bar)
                if state["status"] in _ENDED:
                    break
                time.sleep(_POLL_S)
            if state["status"] == "succeeded":
                bar.finish("done")
        reason = (state.get("error") or {}).get("message", "")
        _hold(state["status"] == "succeeded", f"{path} {state['status']}: {reason}")
        return state

    def _events(self, job_id: str) -> Iterator[dict[str, Any]]:
        after: str | None = None
        while True:
            query = f"?limit=100{f'&after={after}' if after else ''}"
            page = self._get(f"/v1/fine_tuning/jobs/{job_id}/events{query}")
            yield from page["data"]
            if not page["has_more"]:
                return
            after = page["data"][-1]["id"]

    def _first_token(self, adapter: str, row: dict[str, str]) -> float:
        body = {
            "model": adapter,
            "stream": True,
            "max_tokens": 8,
            "temperature": 0,
            "messages": [
                {"role": "system", "content": row["instruction"]},
                {"role": "user", "content": row["input"]},
            ],
        }
        started = time.monotonic()
        with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
            _checked(response, parse=False)
            for line in response.iter_lines():
                if '"content":' in line and '"content":""' not in line.replace(" ", ""):
                    return time.monotonic() - started
        raise StackFailed("the stream ended without a token")


def _checked(response: httpx.Response, *, parse: bool = True) -> Any:
    if response.is_error:
        raise StackFailed(
            f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text}"
        )
    return response.json() if parse else None


def _hold(condition: bool, failure: str) -> None:
    if not condition:
        raise StackFailed(failure)


def _states(stack: LocalStack) -> str:
    return ", ".join(f"{name} {info['statename'].lower()}" for name, info in stack.processes().items())


def _study_of(row: dict[str, str]) -> str:
    """Return the study that the row's instruction names between guillemets."""
    return row["instruction"].partition("«")[2].partition("»")[0] or _IMPRESSION_STUDY
