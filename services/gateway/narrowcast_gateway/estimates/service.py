"""Estimates a training on the GPUs that trainers have reported."""

from dataclasses import dataclass
from typing import Any

from narrowcast.errors import InvalidInput, NotFound, Unavailable
from narrowcast.estimates.architecture import read_architecture
from narrowcast.estimates.estimate import Estimate, Plan, check_plan, estimate
from narrowcast.estimates.history import EstimateFacts, NodeFacts
from narrowcast.estimates.shapes import Quantization, TrainingShape, rows_at_once
from narrowcast.training import Hyperparameters
from narrowcast_gateway.datasets.service import Datasets
from narrowcast_gateway.settings import ServersSettings
from narrowcast_gateway.training.service import Training


@dataclass(frozen=True)
class Question:
    """A training, as far as it is known; None leaves the choice to us."""

    base_model: str
    hyperparameters: dict[str, Any]
    training_file: str | None = None
    rows: int | None = None
    tokens_per_row: float | None = None
    longest_row: int | None = None
    micro_batch: int | None = None
    quantization: Quantization | None = None
    gpu: str | None = None


@dataclass(frozen=True)
class Answer:
    """The estimate, and what it was made for."""

    base_model: str
    plan: Plan
    estimate: Estimate


class Estimates:
    """Answers questions; keeps nothing."""

    def __init__(
        self, facts: EstimateFacts, training: Training, datasets: Datasets, servers: ServersSettings
    ) -> None:
        self._facts = facts
        self._training = training
        self._datasets = datasets
        self._servers = servers

    def create(self, tenant: str, question: Question) -> Answer:
        """Estimate a training.

        Raises:
            NotFound: no such base model, dataset, file or GPU.
            InvalidInput: the hyper-parameters cannot be trained with, or the base's architecture is unknown.
            Unavailable: no trainer has reported yet.
        """
        if question.base_model not in self._servers.bases:
            raise NotFound("no such base model", code="model_not_found", param="model")
        hyperparameters = self._training.check(question.hyperparameters)
        node = self._node(question.gpu)
        architecture = read_architecture(self._facts.config(question.base_model))
        plan = _plan(question, hyperparameters, node, self._rows(tenant, question))
        correction = self._facts.correction(node.name, plan.shape.engine)
        return Answer(question.base_model, plan, estimate(architecture, plan, node, correction))

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


def _stored(hyperparameters: Hyperparameters, node: NodeFacts) -> Quantization:
    if hyperparameters.quantization != "auto":
        return hyperparameters.quantization
    return "nf4" if node.device == "cuda" else "none"


def _plan(question: Question, hyperparameters: Hyperparameters, node: NodeFacts, rows: int) -> Plan:
    engine = node.engine if hyperparameters.engine == "auto" else hyperparameters.engine
    length = min(hyperparameters.max_length, question.longest_row or hyperparameters.max_length)
    batch_size = hyperparameters.batch_size
    shape = TrainingShape(
        rank=hyperparameters.largest_rank,
        length=length,
        micro_batch=question.micro_batch or rows_at_once(length, batch_size, node.micro_batch_tokens),
        engine=engine,
        quantization=question.quantization or _stored(hyperparameters, node),
        autocast=node.bf16,
    )
    plan = Plan(
        shape=shape,
        rows=rows,
        epochs=hyperparameters.most_epochs,
        trials=hyperparameters.n_trials,
        batch_size=batch_size,
        tokens_per_row=question.tokens_per_row,
    )
    check_plan(plan)
    return plan
