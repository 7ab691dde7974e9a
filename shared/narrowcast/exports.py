"""Exports: adapters in forms that other programs run. How one is asked for, and where it lies."""

import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from narrowcast.adapters import BaseModelRef
from narrowcast.artifacts import Manifest

ExportFormat = Literal["merged", "gguf", "lora-gguf"]
"""``merged``: base and adapter as one 16-bit checkpoint in Hugging Face's format; ``gguf``: the same
for llama.cpp and Ollama; ``lora-gguf``: the adapter alone, to be put onto a GGUF of its base."""
Quantization = Literal["q4_k_m", "q8_0", "f16"]
DEFAULT_QUANTIZATION: Quantization = "q4_k_m"
# Of the hub: owner and name, each of at most 96 characters, neither beginning nor ending with a dot or dash.
_REPOSITORY = (
    r"^[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?/[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?$"
)


def _taken_by_the_hub(repository: str) -> str:
    if not re.fullmatch(_REPOSITORY, repository):
        raise ValueError(
            "owner/name, each of up to 96 letters, digits, dots, dashes and underscores, with no dot or dash"
            " at either end"
        )
    # The pattern cannot say so: in JSON Schema it must do without looking ahead or back.
    if "--" in repository or ".." in repository or repository.endswith(".git"):
        raise ValueError("the hub takes no name with -- or .. in it or .git at its end")
    return repository


RepositoryName = Annotated[
    str,
    AfterValidator(_taken_by_the_hub),
    WithJsonSchema({"type": "string", "pattern": _REPOSITORY}),
]


class HubDestination(BaseModel):
    """A repository on a Hugging Face hub; the token that may write there is the site's."""

    model_config = ConfigDict(extra="forbid")

    repo_id: RepositoryName
    """`owner/name`; created if it is not there."""
    private: bool = True
    """Of a repository that is created. One that is there stays what it is; if private is asked for and it is
    not, nothing is pushed to it."""
    base_model: RepositoryName | None = None
    """The base's own `owner/name` on the hub, for the card to link to."""


class ExportRequest(BaseModel):
    """What a user asks for."""

    model_config = ConfigDict(extra="forbid")

    adapter: str
    format: ExportFormat = "gguf"
    quantization: Quantization | None = None
    """Of `gguf`; `q4_k_m` unless given."""
    push_to_hub: HubDestination | None = None

    @field_validator("quantization")
    @classmethod
    def _of_gguf(cls, quantization: Quantization | None, info: ValidationInfo) -> Quantization | None:
        format_ = info.data.get("format", "gguf")  # one that there is not is refused already
        if quantization is not None and format_ != "gguf":
            raise ValueError(f"{format_} is written in 16 bits: quantization is for gguf")
        return quantization

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.format == "gguf":
            self.quantization = self.quantization or DEFAULT_QUANTIZATION
        return self


class ExportSpec(ExportRequest):
    """The ``spec`` of an export job's record."""

    base_model: str
    """Of the adapter's manifest; the node that exports must have it."""


class ExportManifest(Manifest):
    """A published export."""

    adapter: str
    base: BaseModelRef
    format: ExportFormat
    quantization: Quantization | None = None


def export_prefix(tenant: str, export_id: str) -> str:
    """Return the key prefix of an export in the models bucket."""
    return f"exports/{tenant}/{export_id}/"
