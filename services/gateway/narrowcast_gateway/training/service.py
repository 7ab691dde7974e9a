"""Accepts training jobs: everything that can be refused early is refused here."""

from typing import Any, Final

from pydantic import ValidationError

from narrowcast import ids
from narrowcast.checkpoints import CheckpointManifest, complete_checkpoints
from narrowcast.datasets import DatasetManifest
from narrowcast.errors import InvalidInput, NotFound
from narrowcast.jobs.once import Once
from narrowcast.jobs.records import Job, JobEvent, JobKind
from narrowcast.jobs.schedule import Schedule
from narrowcast.jobs.store import JobStore
from narrowcast.paging import page_of
from narrowcast.storage import Bucket
from narrowcast.training import Hyperparameters, TrainingSpec
from narrowcast_gateway.datasets.service import Datasets
from narrowcast_gateway.settings import ServersSettings
from narrowcast_gateway.training.served import UNKNOWN, Served, ask_served

HYPERPARAMETERS: Final = "hyperparameters."
"""Before the name of one in an error; a request may have them elsewhere."""


_UNCHECKED: Final = JobEvent(
    level="warn",
    message="the inference server does not answer: whether it serves the trainer's very base, and texts of"
    " max_length, is not checked before it loads the adapter",
    data={"code": "served_base_unknown"},
)


class Training:
    """A tenant's training jobs."""

    def __init__(self, jobs: JobStore, datasets: Datasets, models: Bucket, servers: ServersSettings) -> None:
        self._jobs = jobs
        self._datasets = datasets
        self._models = models
        self._servers = servers

    def create(
        self,
        tenant: str,
        *,
        base_model: str,
        training_file: str,
        validation_file: str | None,
        suffix: str | None,
        hyperparameters: dict[str, Any],
        schedule: Schedule,
        once: Once | None = None,
    ) -> Job:
        """Submit a job, or return the one that the same request has made before.

        Raises:
            NotFound: no such base model, dataset or file.
            InvalidInput: the hyper-parameters or the dataset cannot be trained with.
        """
        if (earlier := self._jobs.submitted(JobKind.TRAINING, tenant, once)) is not None:
            return earlier
        if base_model not in self._servers.bases:
            raise NotFound("no such base model", code="model_not_found", param="model")
        served = ask_served(str(self._servers.bases[base_model]))
        checked = self.check(hyperparameters, served)
        dataset = self._trainable(tenant, training_file, "training_file")
        if validation_file is not None:
            self._trainable(tenant, validation_file, "validation_file")
        elif checked.n_trials > 1 and not dataset.rows.get("validation"):
            raise InvalidInput(
                "a sweep compares its trials by their validation loss, and there are no rows for it:"
                " name a validation_file",
                code="sweep_without_validation",
                param="validation_file",
            )
        spec = TrainingSpec(
            base_model=base_model,
            dataset=training_file,
            validation_dataset=validation_file,
            adapter_id=ids.new_id(ids.beginning(suffix or base_model)),
            hyperparameters=checked,
            served_fingerprints=served.fingerprints,
        )
        job = Job(
            id=ids.new_id(JobKind.TRAINING),
            kind=JobKind.TRAINING,
            tenant=tenant,
            spec=spec.model_dump(mode="json"),
            schedule=schedule,
        )
        return self._jobs.submit(job, once, None if served.fingerprints else _UNCHECKED)

    def get(self, tenant: str, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: the tenant has no such training job.
        """
        return self._jobs.get(job_id, tenant=tenant, kind=JobKind.TRAINING)

    def page(self, tenant: str, after: str | None, limit: int) -> tuple[list[Job], bool]:
        """Return jobs, newest first, and whether more follow."""
        return self._jobs.page(JobKind.TRAINING, tenant, after=after, limit=limit)

    def cancel(self, tenant: str, job_id: str, *, keep_checkpoint: bool = False) -> Job:
        """Cancel a job that waits at once, ask the worker of a running one to stop.

        Args:
            tenant: who asks.
            job_id: which job.
            keep_checkpoint: the newest checkpoint becomes the job's adapter; a worker does that.

        Raises:
            NotFound: the tenant has no such training job.
            Conflict: it has ended.
        """
        self.get(tenant, job_id)
        return self._jobs.request_cancel(job_id, keep_checkpoint=keep_checkpoint)

    def pause(self, tenant: str, job_id: str) -> Job:
        """Take a queued job out of the queue, ask the worker of a running one to stop for now.

        Raises:
            NotFound: the tenant has no such training job.
            Conflict: ``already_paused``, ``job_cancelling`` or ``job_ended``.
        """
        self.get(tenant, job_id)
        return self._jobs.pause(job_id)

    def resume(self, tenant: str, job_id: str) -> Job:
        """Queue a paused job again.

        Raises:
            NotFound: the tenant has no such training job.
            Conflict: ``not_paused``.
        """
        self.get(tenant, job_id)
        return self._jobs.resume(job_id)

    def checkpoints(
        self, tenant: str, job_id: str, after: str | None, limit: int
    ) -> tuple[list[CheckpointManifest], bool]:
        """Return the complete checkpoints of a job, newest first, and whether more follow.

        Only jobs that have not ended have any, and only the last few.

        Raises:
            NotFound: the tenant has no such job, or the job no checkpoint ``after``.
        """
        self.get(tenant, job_id)
        found = list(complete_checkpoints(self._models, tenant, job_id))
        return page_of(found, after, limit, kind="checkpoint")

    def events(self, tenant: str, job_id: str, after: str | None, limit: int) -> tuple[list[JobEvent], bool]:
        """Return events, newest first as OpenAI does, and whether more follow.

        Raises:
            NotFound: the tenant has no such job, or the job no event ``after``.
        """
        self.get(tenant, job_id)
        return self._jobs.events_page(job_id, tenant, after=after, limit=limit)

    def check(self, hyperparameters: dict[str, Any], served: Served = UNKNOWN) -> Hyperparameters:
        """Return the hyper-parameters with defaults filled in.

        Args:
            hyperparameters: those that were given.
            served: the server that the adapter is for, if it is known.

        Raises:
            InvalidInput: one of them cannot be trained with, or what it makes not be served.
        """
        # The defaults must be servable: a site with little memory serves small ranks and short texts only.
        most = {"rank": self._servers.max_lora_rank, "max_length": served.max_model_len}
        for name, limit in most.items():
            default = Hyperparameters.model_fields[name].default
            if name not in hyperparameters and limit is not None and limit < default:
                hyperparameters = hyperparameters | {name: limit}
        try:
            checked = Hyperparameters.model_validate(hyperparameters)
        except ValidationError as error:
            first = error.errors()[0]
            # Of a field that may be one thing or another, pydantic adds which of them it tried.
            name = str(first["loc"][0]) if first["loc"] else "sweep"
            message = first["msg"].removeprefix("Value error, ")
            raise InvalidInput(
                f"{name}: {message}", code="invalid_hyperparameter", param=f"{HYPERPARAMETERS}{name}"
            ) from None
        if checked.largest_rank > self._servers.max_lora_rank:
            raise InvalidInput(
                f"rank {checked.largest_rank} is above {self._servers.max_lora_rank}, the most that is"
                " served here",
                code="unservable_adapter",
                param=f"{HYPERPARAMETERS}sweep.rank"
                if checked.sweep and checked.largest_rank != checked.rank
                else f"{HYPERPARAMETERS}rank",
            )
        if served.max_model_len is not None and checked.max_length > served.max_model_len:
            raise InvalidInput(
                f"max_length {checked.max_length} is above {served.max_model_len}, the tokens of prompt and"
                " answer together that the inference server takes (its max_model_len)",
                code="max_length_not_served",
                param=f"{HYPERPARAMETERS}max_length",
            )
        return checked

    def _trainable(self, tenant: str, dataset_id: str, param: str) -> DatasetManifest:
        manifest = self._datasets.get(tenant, dataset_id, param=param)
        if not manifest.rows.get("train"):
            raise InvalidInput("the dataset has no training rows", code="empty_training_file", param=param)
        return manifest
