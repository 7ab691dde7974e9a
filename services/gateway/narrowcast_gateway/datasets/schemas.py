"""Datasets on the wire."""

from typing import Literal

from pydantic import BaseModel

from narrowcast.datasets import DatasetManifest, SplitName


class Dataset(BaseModel):
    """A dataset; its rows come from ``/v1/datasets/{id}/content``."""

    id: str
    object: Literal["dataset"] = "dataset"
    created_at: int
    source: str
    rows: dict[SplitName, int]
    prompt_template: str
    instructions: dict[str, int]
    statistics: dict[str, int]

    @classmethod
    def of(cls, manifest: DatasetManifest) -> "Dataset":
        """Return the manifest as the wire shows it."""
        return cls(
            created_at=int(manifest.created_at),
            **manifest.model_dump(
                include={"id", "source", "rows", "prompt_template", "instructions", "statistics"}
            ),
        )
