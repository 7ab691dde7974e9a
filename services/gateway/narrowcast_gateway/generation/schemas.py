"""Generation on the wire."""

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from narrowcast_gateway.schemas import WithNumbers

# What Python reads from JSON and cannot send on as JSON: infinities and NaN, and lone surrogates. Pydantic
# looks for those only in a string that has a bound, be it one that bounds nothing.
_SENDABLE: Final = ConfigDict(extra="forbid", allow_inf_nan=False, str_min_length=0)

_MOST_STOPS: Final = 4  # OpenAI's, and vLLM's unless VLLM_MAX_STOP_STRINGS says otherwise

Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Stop = Annotated[str, Field(min_length=1)]
Stops = Annotated[list[Stop], Field(max_length=_MOST_STOPS)]


def _one_or_list(one: Any, many: Any) -> WrapValidator:
    """Check as what the value is meant to be, where pydantic would say what is wrong with it as each."""
    as_one, as_many = TypeAdapter[Any](one, config=_SENDABLE), TypeAdapter[Any](many, config=_SENDABLE)

    def check(value: Any, _check_each: ValidatorFunctionWrapHandler) -> Any:
        return (as_many if isinstance(value, list) else as_one).validate_python(value)

    return WrapValidator(check)


class _OpenAIShape(WithNumbers):
    """What clients of OpenAI fill in: a null for a parameter that is not here asks for nothing."""

    model_config = _SENDABLE

    @model_validator(mode="before")
    @classmethod
    def _without_unknown_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None or name in cls.model_fields}


class TextPart(_OpenAIShape):
    """A piece of a message. Text only: a URL here would make the server fetch it."""

    type: Literal["text"]
    text: str


class ChatMessage(_OpenAIShape):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str | list[TextPart], _one_or_list(str, list[TextPart])]
    name: str | None = None


class StreamOptions(_OpenAIShape):
    """OpenAI's stream options."""

    include_usage: bool = False


class ChatCompletionRequest(_OpenAIShape):
    """OpenAI's parameters that the servers support, and vLLM's sampling ones; others are refused by name."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    min_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=8)
    seed: Seed | None = None
    stop: Annotated[Stop | Stops, _one_or_list(Stop, Stops)] | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    return_token_ids: bool | None = None
    """vLLM's: the ids of prompt and answer, to compare with what was trained."""
    user: str | None = None

    @field_validator("stream_options")
    @classmethod
    def _of_a_stream(cls, options: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if options is not None and not info.data.get("stream"):
            raise ValueError("only with stream: true")
        return options

    @field_validator("n")
    @classmethod
    def _of_answers_that_differ(cls, n: int | None, info: ValidationInfo) -> int | None:
        if n is not None and n > 1 and info.data.get("temperature") == 0:
            raise ValueError("must be 1 when temperature is 0, as the answers would be the same")
        return n

    @field_validator("top_logprobs")
    @classmethod
    def _of_logprobs(cls, top_logprobs: int | None, info: ValidationInfo) -> int | None:
        if top_logprobs and not info.data.get("logprobs"):
            raise ValueError("only with logprobs: true")
        return top_logprobs

    def for_server(self, served_as: str) -> dict[str, Any]:
        """Return the body for vLLM; ``user`` stays here, since it may be a person's name."""
        return self.model_dump(exclude_none=True, exclude={"user"}) | {"model": served_as}


class CreateReport(WithNumbers):
    """A RIS's request for a draft."""

    model_config = _SENDABLE

    impression: str = Field(min_length=1, max_length=20_000)
    """The doctor's conclusion."""
    model: str
    study: str | None = Field(None, max_length=200)
    """Kind of examination, e.g. «МРТ головного мозга»; an adapter knows the commonest of its training set."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest draft; by default what the model's context leaves."""
    temperature: float = Field(0.0, ge=0, le=2)
    seed: Seed | None = None

    @field_validator("impression")
    @classmethod
    def _says_something(cls, impression: str) -> str:
        if not impression.strip():
            raise ValueError("is blank")
        return impression


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class DraftWarning(BaseModel):
    """Something a reader of the draft should know."""

    code: Literal["truncated", "repetition"]
    message: str


class Report(BaseModel):
    """A draft of the descriptive part; a doctor has to read and correct it."""

    id: str
    object: Literal["report"] = "report"
    created: int
    model: str
    description: str
    finish_reason: str
    warnings: list[DraftWarning]
    usage: Usage
