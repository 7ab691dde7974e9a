"""The shape of a decoder: how many parameters of which kind, from its ``config.json``.

Counts are those of transformers' own modules, parameter for parameter; a test builds each
architecture on PyTorch's meta device and compares. An architecture that is not in the table is
refused: a wrong figure is worse than none.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from narrowcast.errors import InvalidInput

Biased = Literal["none", "queries", "attention"]
_SUPPORTED: Final = ("llama", "mistral", "qwen2", "qwen3")
_Size = Annotated[int, Field(strict=True, gt=0, le=2**31)]


class _Config(BaseModel):
    """What a ``config.json`` of the supported architectures says of the shape."""

    model_type: str
    hidden_size: _Size
    intermediate_size: _Size
    num_hidden_layers: _Size
    num_attention_heads: _Size
    vocab_size: _Size
    num_key_value_heads: _Size | None = None
    head_dim: _Size | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    @model_validator(mode="after")
    def _leave_nothing_to_class_defaults(self) -> Self:
        # What is left out takes the default of transformers' class, which is a number of one model only.
        if self.num_key_value_heads is None and self.model_type != "llama":
            raise _invalid("num_key_value_heads", "is missing")
        if self.head_dim is None and self.model_type == "qwen3":
            raise _invalid("head_dim", "is missing")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise _invalid("num_attention_heads", "does not divide hidden_size, and there is no head_dim")
        if self.num_key_value_heads and self.num_attention_heads % self.num_key_value_heads:
            raise _invalid("num_key_value_heads", "does not divide num_attention_heads")
        return self


@dataclass(frozen=True)
class Linear:
    """One kind of linear layer; every decoder layer has one of it."""

    name: str
    inputs: int
    outputs: int
    biased: bool = False

    @property
    def weights(self) -> int:
        """Parameters without the bias."""
        return self.inputs * self.outputs

    def lora_parameters(self, rank: int) -> int:
        """Return the parameters of A (rank x inputs) and B (outputs x rank)."""
        return rank * (self.inputs + self.outputs)


@dataclass(frozen=True)
class Architecture:
    """A decoder with grouped-query attention and a gated feed-forward network."""

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""
    linears: tuple[Linear, ...]
    """The seven of one layer, which LoRA is put on."""
    norms: int
    """Parameters of all norms."""

    @property
    def query_width(self) -> int:
        """Width of all heads together; not always ``hidden`` (Mistral-Nemo: 4096 of 5120)."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of keys, and of values."""
        return self.kv_heads * self.head_dim

    @property
    def linear_weights(self) -> int:
        """Weights of all layers' linears: what is quantised."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def biases(self) -> int:
        """Biases of all layers' linears; never quantised."""
        return self.layers * sum(linear.outputs for linear in self.linears if linear.biased)

    @property
    def embeddings(self) -> int:
        """Parameters of the embedding and, unless tied, of the output layer; never quantised."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.linear_weights + self.biases + self.embeddings + self.norms

    @property
    def widest_linear(self) -> int:
        """Weights of the largest linear of a layer."""
        return max(linear.weights for linear in self.linears)

    def targets(self, modules: Collection[str] | None) -> tuple[Linear, ...]:
        """Return the linears of one layer that LoRA is put on; None: all seven."""
        return tuple(linear for linear in self.linears if modules is None or linear.name in modules)

    def lora_parameters(self, rank: int, modules: Collection[str] | None = None) -> int:
        """Return the trainable parameters of LoRA of ``rank`` on linears of every layer; None: on all."""
        return self.layers * sum(linear.lora_parameters(rank) for linear in self.targets(modules))


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Return the shape that a ``config.json`` describes.

    Raises:
        InvalidInput: ``unsupported_architecture`` naming the ``model_type``, or
            ``invalid_model_config`` naming the field.
    """
    model_type = str(config.get("model_type"))
    if model_type not in _SUPPORTED:
        raise InvalidInput(
            f"no estimate for the architecture {model_type!r}; known are {', '.join(_SUPPORTED)}",
            code="unsupported_architecture",
            param="model_type",
        )
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    if method not in {None, "bitsandbytes"}:
        raise InvalidInput(
            "the model's config.json is of a quantised copy, for serving; take that of the 16-bit base",
            code="invalid_model_config",
            param="quantization_config",
        )
    try:
        read = _Config.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        raise _invalid(".".join(map(str, first["loc"])), first["msg"]) from None
    return _architecture(read)


def _invalid(field: str, what: str) -> InvalidInput:
    return InvalidInput(f"the model's config.json: {field}: {what}", code="invalid_model_config", param=field)


def _architecture(config: _Config) -> Architecture:
    hidden, intermediate = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads
    kv_heads = config.num_key_value_heads or heads
    head_dim = config.head_dim or hidden // heads
    queries, keys = heads * head_dim, kv_heads * head_dim
    biased = _biased(config)
    inward, outward = biased != "none", biased == "attention"
    mlp = config.model_type == "llama" and config.mlp_bias
    # Qwen3 normalises each head's queries and keys as well.
    head_norms = 2 * head_dim if config.model_type == "qwen3" else 0
    return Architecture(
        model_type=config.model_type,
        layers=config.num_hidden_layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
        linears=(
            Linear("q_proj", hidden, queries, inward),
            Linear("k_proj", hidden, keys, inward),
            Linear("v_proj", hidden, keys, inward),
            Linear("o_proj", queries, hidden, outward),
            Linear("gate_proj", hidden, intermediate, mlp),
            Linear("up_proj", hidden, intermediate, mlp),
            Linear("down_proj", intermediate, hidden, mlp),
        ),
        norms=config.num_hidden_layers * (2 * hidden + head_norms) + hidden,
    )


def _biased(config: _Config) -> Biased:
    """Return which projections of attention have a bias."""
    if config.model_type == "qwen2":
        return "queries"  # on q, k and v, whatever the config says
    if config.model_type in {"llama", "qwen3"} and config.attention_bias:
        return "attention"
    return "none"
