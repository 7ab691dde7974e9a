"""Models on the wire."""

from typing import Literal

from pydantic import BaseModel

from narrowcast.adapters import AdapterManifest


class Model(BaseModel):
    """OpenAI's model, with what we know of an adapter."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    parent: str | None = None
    """The base model of an adapter; null for a base model."""


class ModelList(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Adapter(BaseModel):
    """An adapter in full."""

    id: str
    object: Literal["adapter"] = "adapter"
    created_at: int
    base_model: str
    base_fingerprint: str
    prompt_template: str
    default_instruction: str
    rank: int
    engine: str
    dataset: str
    job: str
    metrics: dict[str, float]
    size: int
    """Bytes of all its files."""

    @classmethod
    def of(cls, manifest: AdapterManifest) -> "Adapter":
        """Return the manifest as the wire shows it."""
        return cls(
            id=manifest.id,
            created_at=int(manifest.created_at),
            base_model=manifest.base.name,
            base_fingerprint=manifest.base.fingerprint,
            prompt_template=manifest.prompt.template,
            default_instruction=manifest.prompt.default_instruction,
            rank=manifest.rank,
            engine=manifest.engine,
            dataset=manifest.dataset,
            job=manifest.job,
            metrics=manifest.metrics,
            size=sum(entry.size for entry in manifest.files.values()),
        )
