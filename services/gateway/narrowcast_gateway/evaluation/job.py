"""One evaluation, on the CPU worker."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from narrowcast.artifacts import discard, publish
from narrowcast.datasets import Row
from narrowcast.errors import NotFound, Outage, Unavailable
from narrowcast.jobs.records import LeaseLost
from narrowcast.jobs.running import RunningJob
from narrowcast_gateway.adapters.service import ModelTarget
from narrowcast_gateway.evaluation import rouge
from narrowcast_gateway.evaluation.baseline import NearestReport
from narrowcast_gateway.evaluation.schemas import (
    BASELINE,
    ContestantResult,
    EvaluationManifest,
    EvaluationSpec,
)
from narrowcast_gateway.evaluation.service import PREDICTIONS, evaluation_prefix
from narrowcast_gateway.evaluation.tokenization import TOKENIZER_NAME
from narrowcast_gateway.generation.client import InferenceClient
from narrowcast_gateway.generation.service import report_request
from narrowcast_gateway.services import Services, create_http_client
from narrowcast_gateway.settings import GatewaySettings


def evaluate(running: RunningJob, services: Services, settings: GatewaySettings) -> dict[str, Any]:
    """Run every contestant over the split, score it, store answers and figures; return the figures."""
    job = running.job
    spec = EvaluationSpec.model_validate(job.spec)
    dataset = services.datasets.get(job.tenant, spec.dataset)
    rows = services.datasets.rows(dataset, spec.split)[: spec.max_rows]
    # All before the first is asked: one that has been deleted since would cost the others' answers.
    targets = services.evaluations.targets(job.tenant, spec)
    contest = _Contest(running, rows, total=len(rows) * len(spec.models))

    train = services.datasets.rows(dataset, "train")
    if train:
        contest.add_baseline(train)
    with contest.charging_outages():
        for target in targets:
            contest.add_model(target, settings, spec.max_tokens)
        return _publish(contest, services, spec, rows)


def _publish(
    contest: "_Contest", services: Services, spec: EvaluationSpec, rows: Sequence[Row]
) -> dict[str, Any]:
    running, job = contest.running, contest.running.job
    manifest = EvaluationManifest(
        id=job.id,
        tenant=job.tenant,
        dataset=spec.dataset,
        split=spec.split,
        rows=len(rows),
        tokenizer=TOKENIZER_NAME,
        results=contest.results,
    )
    running.check()
    bucket, prefix = services.connections.storage.data, evaluation_prefix(job.tenant, job.id)
    publish(bucket, prefix, {PREDICTIONS: contest.predictions()}, manifest)
    try:
        services.evaluations.get(job.tenant, job.id)
    except NotFound:
        # This worker stood still, a reaper ended the job and its user has deleted it: so go the texts.
        discard(bucket, prefix)
        raise LeaseLost(f"job {job.id} is not there any more") from None
    return manifest.model_dump(include={"rows", "tokenizer", "results"})


class _Contest:
    """Collects answers and scores of all contestants over the same rows."""

    def __init__(self, running: RunningJob, rows: Sequence[Row], total: int) -> None:
        self.running = running
        self.rows = rows
        self._total = total
        self._done = 0
        self._answers: dict[str, list[str]] = {}
        self.results: list[ContestantResult] = []

    @contextmanager
    def charging_outages(self) -> Iterator[None]:
        """Let an outage use up an attempt once a model has answered any row.

        All would be asked again at no cost, as often as a prompt brings the server down.
        """
        try:
            yield
        except Outage as error:
            if not self._done:
                raise
            raise Unavailable(error.message, code=error.code, param=error.param) from error

    def add_baseline(self, train: Sequence[Row]) -> None:
        started = time.monotonic()
        nearest = NearestReport([(row.instruction, row.input, row.output) for row in train])
        answers = []
        for row in self.rows:
            self.running.check()
            answers.append(nearest.answer(row.instruction, row.input))
        self._add(BASELINE, "baseline", answers, 0, time.monotonic() - started)

    def add_model(self, target: ModelTarget, settings: GatewaySettings, max_tokens: int | None) -> None:
        started = time.monotonic()
        answers, truncated = asyncio.run(self._ask_all(target, settings, max_tokens))
        kind = "adapter" if target.adapter else "base"
        self._add(target.name, kind, answers, truncated, time.monotonic() - started)

    def predictions(self) -> bytes:
        """Return one JSON object a row: the reference and every contestant's answer."""
        lines = []
        for index, row in enumerate(self.rows):
            answers = {name: texts[index] for name, texts in self._answers.items()}
            line = {"document": row.document, "input": row.input, "reference": row.output, "answers": answers}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        return "".join(lines).encode()

    def _add(self, name: str, kind: Any, answers: list[str], truncated: int, seconds: float) -> None:
        self._answers[name] = answers
        # Asked at each row: scoring thousands takes longer than a worker is given to stop.
        scores = rouge.score([row.output for row in self.rows], answers, self.running.check)
        self.results.append(
            ContestantResult(
                model=name, kind=kind, rouge=scores, truncated=truncated, seconds=round(seconds, 2)
            )
        )

    async def _ask_all(
        self, target: ModelTarget, settings: GatewaySettings, max_tokens: int | None
    ) -> tuple[list[str], int]:
        limit = asyncio.Semaphore(settings.evaluation.concurrency)
        async with create_http_client(settings) as http:
            client = InferenceClient(http)
            asked = [self._ask(client, limit, target, row, max_tokens) for row in self.rows]
            answers = await asyncio.gather(*asked)
        return [text for text, _ in answers], sum(reason == "length" for _, reason in answers)

    async def _ask(
        self,
        client: InferenceClient,
        limit: asyncio.Semaphore,
        target: ModelTarget,
        row: Row,
        max_tokens: int | None,
    ) -> tuple[str, str]:
        async with limit:
            # Raises when the job is cancelled or lost, which ends the whole gather.
            self._report()
            body = report_request(target, row.input, instruction=row.instruction)
            if max_tokens is not None:
                body["max_tokens"] = max_tokens
            completion = await client.complete_when_free(target, body, self._report, prompt_param="dataset")
            self._done += 1
            self._report()
            choice = completion["choices"][0]
            return (choice["message"]["content"] or "").strip(), choice["finish_reason"]

    def _report(self) -> None:
        self.running.progress(done=self._done, total=self._total)
