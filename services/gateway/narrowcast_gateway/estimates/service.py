"""Estimates a training on the GPUs that trainers have reported."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx
from anyio import move_on_after, to_thread

from narrowcast.context import context_length
from narrowcast.datasets import Row
from narrowcast.errors import InvalidInput, NotFound, Unavailable
from narrowcast.estimates.architecture import read_architecture
from narrowcast.estimates.estimate import Estimate, Plan, estimate
from narrowcast.estimates.history import EstimateFacts, NodeFacts
from narrowcast.estimates.shapes import Batching, TrainingShape, ranks_that_share
from narrowcast.training import Hyperparameters
from narrowcast_gateway.datasets.service import Datasets
from narrowcast_gateway.previews.service import tokenize_rows
from narrowcast_gateway.previews.tokenizer import BaseTokenizer
from narrowcast_gateway.settings import ServersSettings
from narrowcast_gateway.training.served import UNKNOWN, ask_served
from narrowcast_gateway.training.service import HYPERPARAMETERS, Training

_SAMPLE: Final = 48
"""Rows of a file that are tokenized, for their mean; a fifth of a second."""
_PATIENCE_S: Final = 5.0
"""With a server that is busy; an upper bound at once is worth more than the truth in minutes."""
_LONGEST: Final = 8
"""And those with most letters, one of which will be the longest in tokens."""


@dataclass(frozen=True)
class Question:
    """A training, as far as it is known; None leaves the choice to us."""

    base_model: str
    hyperparameters: dict[str, Any]
    training_file: str | None = None
    rows: int | None = None
    tokens_per_row: float | None = None
    longest_row: int | None = None
    gpu: str | None = None


@dataclass(frozen=True)
class Answer:
    """The estimate, and what it was made for."""

    base_model: str
    plan: Plan
    estimate: Estimate
    measured_rows: int
    """Of the file, whose tokens were counted for it."""


class Estimates:
    """Answers questions; keeps nothing."""

    def __init__(
        self,
        facts: EstimateFacts,
        training: Training,
        datasets: Datasets,
        servers: ServersSettings,
        http: httpx.AsyncClient,
    ) -> None:
        self._facts = facts
        self._training = training
        self._datasets = datasets
        self._servers = servers
        self._http = http

    async def create(self, tenant: str, question: Question) -> Answer:
        """Estimate a training.

        What is not said of its rows is measured on some of them, by the tokenizer of the server that
        serves the base. Where that does not answer every row is taken for the longest that may be.

        Raises:
            NotFound: no such base model, dataset, file or GPU.
            InvalidInput: the hyper-parameters cannot be trained with, or the base's architecture is unknown.
            Unavailable: no trainer has reported yet.
        """
        url = self._servers.bases.get(question.base_model)
        if url is None:
            raise NotFound("no such base model", code="model_not_found", param="model")
        served = await to_thread.run_sync(ask_served, str(url))
        hyperparameters = self._training.check(question.hyperparameters, served)
        rows = await to_thread.run_sync(self._rows, tenant, question)
        measured = 0
        open_ = not (question.tokens_per_row and question.longest_row)
        if question.training_file and open_ and served != UNKNOWN:
            tokenizer = BaseTokenizer(self._http, question.base_model, str(url))
            lengths = await self._lengths(tenant, question.training_file, tokenizer)
            measured = len(lengths.of_any)
            question = lengths.completed(question)
        return await to_thread.run_sync(self._answer, question, hyperparameters, rows, measured)

    def _answer(
        self, question: Question, hyperparameters: Hyperparameters, rows: int, measured: int
    ) -> Answer:
        node = self._node(question.gpu)
        config = self._facts.config(question.base_model)
        architecture = read_architecture(config)
        plan = _plan(question, hyperparameters, node, rows, context_length(config))
        correction = self._facts.correction(node.name, plan.shape.engine, architecture.parameters)
        try:
            _check_engine(plan.shape, node)
            made = estimate(architecture, plan, node, correction)
        except InvalidInput as error:
            error.param = f"{HYPERPARAMETERS}{error.param}"
            raise
        return Answer(question.base_model, plan, made, measured)

    async def _lengths(self, tenant: str, training_file: str, tokenizer: BaseTokenizer) -> "_Lengths":
        rows = await to_thread.run_sync(self._content, tenant, training_file)
        by_letters = sorted(range(len(rows)), key=lambda place: len(rows[place].input + rows[place].output))
        longest, any_ = by_letters[-_LONGEST:], range(0, len(rows), -(-len(rows) // _SAMPLE))
        tokenized = []
        with suppress(Unavailable, InvalidInput), move_on_after(_PATIENCE_S):
            numbered = [(place, rows[place]) for place in sorted({*longest, *any_})]
            # Which rows are too long, or have no end, is for a preview to say.
            tokenized = await tokenize_rows(tokenizer, numbered, None)
        if not tokenized:
            return _Lengths([], [])
        tokens = {row.number: row.tokens for row in tokenized}
        return _Lengths([tokens[place] for place in any_], list(tokens.values()))

    def _content(self, tenant: str, training_file: str) -> list[Row]:
        manifest = self._datasets.get(tenant, training_file, param="training_file")
        return self._datasets.rows(manifest, "train")

    def _node(self, gpu: str | None) -> NodeFacts:
        nodes = self._facts.nodes()
        if not nodes:
            raise Unavailable("no trainer has reported its GPU yet", code="trainer_unknown")
        if gpu is None:
            return max(nodes, key=lambda node: (node.device == "cuda", node.memory_bytes))
        for node in nodes:
            if node.name == gpu:
                return node
        known = ", ".join(node.name for node in nodes)
        raise NotFound(f"no trainer has such a GPU; known are: {known}", code="gpu_not_found", param="gpu")

    def _rows(self, tenant: str, question: Question) -> int:
        if question.training_file is None:
            return question.rows or 0
        manifest = self._datasets.get(tenant, question.training_file, param="training_file")
        rows = manifest.rows.get("train", 0)
        if not rows:
            raise InvalidInput(
                "the dataset has no training rows", code="empty_training_file", param="training_file"
            )
        return rows


@dataclass(frozen=True)
class _Lengths:
    """Tokens of some rows of a file; none where they could not be counted."""

    of_any: list[int]
    """Spread over the file."""
    all: list[int]
    """And those with most letters."""

    def completed(self, question: Question) -> Question:
        """Return the question with what it leaves open of its rows."""
        if not self.all:
            return question
        return replace(
            question,
            tokens_per_row=question.tokens_per_row or sum(self.of_any) / len(self.of_any),
            longest_row=question.longest_row or max(self.all),
        )


def _plan(
    question: Question, hyperparameters: Hyperparameters, node: NodeFacts, rows: int, context: int | None
) -> Plan:
    max_length = min(hyperparameters.max_length, context or hyperparameters.max_length)  # as the trainer does
    # Of a sweep's choices those that take most memory.
    batching = Batching(
        batch_sizes=hyperparameters.batch_sizes,
        ranks=ranks_that_share(hyperparameters.batch_sizes, node.gpus),
        max_length=max_length,
        longest=question.longest_row,
        tokens=node.micro_batch_tokens,
        max_micro_batch=hyperparameters.micro_batch,
    )
    micro_batch, length = batching.largest_pass()
    stored = hyperparameters.quantization
    shape = TrainingShape(
        rank=hyperparameters.largest_rank,
        length=length,
        micro_batch=micro_batch,
        engine=node.engine if hyperparameters.engine == "auto" else hyperparameters.engine,
        quantization=node.quantization if stored == "auto" else stored,
        autocast=node.bf16,
        modules=hyperparameters.module_names,
        ranks=batching.ranks,
        parallelism=node.parallelism,
    )
    mean = question.tokens_per_row
    return Plan(
        shape=shape,
        rows=rows,
        epochs=hyperparameters.most_epochs,
        batching=batching,
        tokens_per_row=min(mean, question.longest_row or mean, max_length) if mean else None,
        trials=hyperparameters.n_trials,
    )


def _check_engine(shape: TrainingShape, node: NodeFacts) -> None:
    # What unsloth cannot do at all, on a CPU or with a sharded base, the estimate itself says.
    able = node.device == "cuda" and node.parallelism == "ddp"
    if able and shape.engine == "unsloth" and node.engine == "peft":
        raise InvalidInput(
            f"the trainer on {node.name} has no unsloth installed", code="engine_unavailable", param="engine"
        )
