"""Generation on the wire."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class TextPart(BaseModel):
    """A piece of a message. Text only: a URL here would make the server fetch it."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None


class StreamOptions(BaseModel):
    """OpenAI's stream options."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class ChatCompletionRequest(BaseModel):
    """OpenAI's parameters that the servers support, and vLLM's sampling ones; others are refused by name."""

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=8)
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    return_token_ids: bool | None = None
    """vLLM's: the ids of prompt and answer, to compare with what was trained."""
    user: str | None = None

    def for_server(self, served_as: str) -> dict[str, Any]:
        """Return the body for vLLM; ``user`` stays here, since it may be a person's name."""
        return self.model_dump(exclude_none=True, exclude={"user"}) | {"model": served_as}


class CreateReport(BaseModel):
    """A RIS's request for a draft."""

    model_config = ConfigDict(extra="forbid")

    impression: str = Field(min_length=1, max_length=20_000)
    """The doctor's conclusion."""
    model: str
    study: str | None = Field(None, max_length=200)
    """Kind of examination, e.g. «МРТ головного мозга»; an adapter knows the commonest of its training set."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest draft; by default what the model's context leaves."""
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int | None = None


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
