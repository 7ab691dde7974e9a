"""Accepts evaluation jobs and reads their results."""

from collections import Counter
from collections.abc import Iterator

from narrowcast import ids
from narrowcast.artifacts import discard
from narrowcast.connections import Connections
from narrowcast.errors import Conflict, InvalidInput, NotFound
from narrowcast.jobs.once import Once
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast_gateway.adapters.service import Adapters, ModelTarget
from narrowcast_gateway.datasets.service import Datasets
from narrowcast_gateway.evaluation.schemas import EvaluationSpec
from narrowcast_gateway.training.served import ask_served

PREDICTIONS = "predictions.jsonl"


def evaluation_prefix(tenant: str, evaluation_id: str) -> str:
    """Return the key prefix of an evaluation in the data bucket."""
    return f"evaluations/{tenant}/{evaluation_id}/"


class Evaluations:
    """A tenant's evaluations."""

    def __init__(self, connections: Connections, adapters: Adapters, datasets: Datasets) -> None:
        self._jobs = connections.jobs
        self._bucket = connections.storage.data
        self._adapters = adapters
        self._datasets = datasets

    def create(self, tenant: str, spec: EvaluationSpec, once: Once | None = None) -> Job:
        """Submit an evaluation, or return the one that the same request has made before.

        Raises:
            NotFound: no such dataset or model.
            InvalidInput: the split is empty, a model is named twice, or one cannot give answers so long.
        """
        if (earlier := self._jobs.submitted(JobKind.EVALUATION, tenant, once)) is not None:
            return earlier
        manifest = self._datasets.get(tenant, spec.dataset, param="dataset")
        if not manifest.rows.get(spec.split):
            raise InvalidInput(
                f"the dataset has no rows in its {spec.split} split", code="empty_split", param="split"
            )
        targets = self.targets(tenant, spec)
        # After they are known to exist: what is repeated to the caller is a model's name.
        model, times = Counter(spec.models).most_common(1)[0]
        if times > 1:
            raise InvalidInput(f"{model} is named {times} times", code="duplicate_model", param="models")
        if spec.max_tokens is not None:
            _check_served(spec.max_tokens, targets)
        job = Job(
            id=ids.new_id(JobKind.EVALUATION), kind=JobKind.EVALUATION, tenant=tenant, spec=spec.model_dump()
        )
        return self._jobs.submit(job, once)

    def targets(self, tenant: str, spec: EvaluationSpec) -> list[ModelTarget]:
        """Return where the models' requests go, in their order.

        Raises:
            NotFound: no such model.
        """
        try:
            return [self._adapters.resolve(tenant, model) for model in spec.models]
        except NotFound as error:
            raise NotFound(error.message, code=error.code, param="models") from None

    def get(self, tenant: str, evaluation_id: str) -> Job:
        """Return an evaluation's job.

        Raises:
            NotFound: the tenant has no such evaluation.
        """
        return self._jobs.get(evaluation_id, tenant=tenant, kind=JobKind.EVALUATION)

    def page(self, tenant: str, after: str | None, limit: int) -> tuple[list[Job], bool]:
        """Return evaluations, newest first, and whether more follow."""
        return self._jobs.page(JobKind.EVALUATION, tenant, after=after, limit=limit)

    def cancel(self, tenant: str, evaluation_id: str) -> Job:
        """Stop an evaluation.

        Raises:
            NotFound: the tenant has no such evaluation.
            Conflict: it has ended.
        """
        self.get(tenant, evaluation_id)
        return self._jobs.request_cancel(evaluation_id)

    def delete(self, tenant: str, evaluation_id: str) -> None:
        """Delete an ended evaluation with its answers, which repeat the dataset's texts.

        Raises:
            NotFound: the tenant has no such evaluation.
            Conflict: ``job_not_ended``.
            Unavailable: the object store failed; trying again is safe.
        """
        if not self.get(tenant, evaluation_id).status.terminal:
            raise Conflict(f"evaluation {evaluation_id} has not ended; cancel it first", code="job_not_ended")
        # The record last: until then this can be repeated.
        prefix = evaluation_prefix(tenant, evaluation_id)
        discard(self._bucket, prefix)
        self._jobs.forget(evaluation_id)
        # Of a worker that stood still and has published in between, sees the record gone and gives up.
        discard(self._bucket, prefix)

    def predictions(self, tenant: str, evaluation_id: str) -> Iterator[bytes]:
        """Return the answers as JSON Lines in chunks.

        Raises:
            NotFound: the tenant has no such evaluation; or ``no_predictions``, it has not succeeded.
        """
        status = self.get(tenant, evaluation_id).status
        if status is not JobStatus.SUCCEEDED:
            # Also where some lie there, of an attempt that came to nothing.
            raise NotFound(
                f"evaluation {evaluation_id} has no predictions: its status is {status}",
                code="no_predictions",
            )
        chunks = self._bucket.stream(evaluation_prefix(tenant, evaluation_id) + PREDICTIONS)
        try:
            first = next(chunks, b"")  # so that a missing object is an error and not a broken answer
        except NotFound:
            raise NotFound(
                f"the predictions of evaluation {evaluation_id} are gone",
                code="no_predictions",
            ) from None

        def rest() -> Iterator[bytes]:
            yield first
            yield from chunks

        return rest()


def _check_served(max_tokens: int, targets: list[ModelTarget]) -> None:
    for url in {target.url for target in targets}:
        longest = ask_served(url).max_model_len
        # As many would leave no room for the prompt.
        if longest is not None and max_tokens >= longest:
            raise InvalidInput(
                f"max_tokens must be below {longest}, the tokens of prompt and answer together that the"
                " inference server takes (its max_model_len)",
                code="max_tokens_not_served",
                param="max_tokens",
            )
