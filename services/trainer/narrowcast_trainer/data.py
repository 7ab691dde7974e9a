"""From a dataset in S3 to token ids and labels, with everything refused that would train wrongly."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from narrowcast import masking
from narrowcast.artifacts import read_file, read_manifest
from narrowcast.cards import DataFile
from narrowcast.datasets import DatasetManifest, Row, SplitName, dataset_prefix, from_jsonl, split_file
from narrowcast.errors import InvalidInput, NotFound
from narrowcast.masking import (
    FAULTS,
    PLAIN_CHAT,
    PLAIN_PROMPT,
    Fault,
    RowLimits,
    check_template,
    mask_fault,
    special_count,
    special_ids,
)
from narrowcast.prompts import CHAT_TEMPLATE_KWARGS, completion_messages, instruction_for, prompt_messages
from narrowcast.storage import Bucket
from narrowcast_trainer.protocol import TrainingOrder

IGNORED = -100
"""The label of a token that the loss leaves out, PyTorch's default."""
stop_ids = masking.stop_ids
_NAMED_ROWS = 20
_LEAST_ROWS = 2
_LEAST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Example:
    """One row as the model sees it."""

    input_ids: list[int]
    labels: list[int]
    """As long as ``input_ids``; :data:`IGNORED` over the whole prompt."""


@dataclass(frozen=True)
class Rows:
    """What one job trains on and validates with."""

    train: list[Row]
    validation: list[Row]
    files: list[DataFile] = field(default_factory=list)
    """What they were read from."""

    @property
    def default_instruction(self) -> str:
        """The commonest instruction of the training rows, if it is one that many rows share; else ours.

        It is published with the adapter, and one that is of a few rows may be about a patient.
        """
        commonest, count = Counter(row.instruction.strip() for row in self.train).most_common(1)[0]
        shared = count >= max(_LEAST_ROWS, _LEAST_SHARE * len(self.train))
        return commonest if shared else instruction_for(None)


def read_rows(data: Bucket, order: TrainingOrder) -> Rows:
    """Return the job's rows, verified against their manifests.

    Raises:
        NotFound: a dataset is not there.
        InvalidInput: there is no row to train on.
        CorruptArtifact: a file is not what was published.
    """
    spec = order.spec
    files: list[DataFile] = []
    train = _read_split(data, order.tenant, spec.dataset, "train", files)
    if not train:
        raise InvalidInput(
            f"{spec.dataset} has no training rows", code="empty_dataset", param="training_file"
        )
    if spec.validation_dataset is not None:
        validation = _read_split(data, order.tenant, spec.validation_dataset, "train", files)
    else:
        validation = _read_split(data, order.tenant, spec.dataset, "validation", files)
    return Rows(train, validation, files)


def _read_split(
    data: Bucket, tenant: str, dataset: str, split: SplitName, files: list[DataFile]
) -> list[Row]:
    prefix = dataset_prefix(tenant, dataset)
    try:
        manifest = read_manifest(data, prefix, DatasetManifest)
    except NotFound:
        raise NotFound(f"no dataset {dataset}", code="unknown_dataset", param="training_file") from None
    if not manifest.rows.get(split):
        return []
    name = split_file(split)
    rows = list(from_jsonl(read_file(data, prefix, manifest, name)))
    files.append(DataFile(dataset=dataset, split=split, rows=len(rows), sha256=manifest.files[name].sha256))
    return rows


def tokenize(
    rows: Sequence[Row],
    tokenizer: Any,
    *,
    max_length: int,
    stop_ids: Collection[int],
    split: str,
    limit: str = "max_length",
    param: str = "training_file",
) -> list[Example]:
    """Return the rows as tokens, in their order.

    The tokens are those of the base's own chat template, as TRL makes them of a conversational
    prompt-completion row and as vLLM makes them of the same messages.

    Args:
        rows: one split.
        tokenizer: a Hugging Face tokenizer with a chat template.
        max_length: tokens of prompt and answer together that a row may have.
        stop_ids: token ids that end a turn; the labels must hold one, or the model never learns to stop.
        split: its name, for messages.
        limit: what sets ``max_length``, for messages.
        param: what of the job's named the rows, for errors.

    Raises:
        InvalidInput: naming the rows (numbered from 1) and what is wrong with them, never their text;
            or the base has no chat template, or one that refuses such messages or adds to an answer.
    """
    if not rows:
        return []
    if not tokenizer.chat_template:
        raise InvalidInput("the base model has no chat template", code="invalid_base_model", param="model")
    empty = [number for number, row in enumerate(rows, 1) if not row.output.strip()]
    _refuse(empty, split, FAULTS["empty_output"], "empty_output", param)
    prompts = _ids(tokenizer, [prompt_messages(row.instruction, row.input) for row in rows], prompt=True)
    wholes = _ids(
        tokenizer,
        [prompt_messages(row.instruction, row.input) + completion_messages(row.output) for row in rows],
        prompt=False,
    )
    (asked,) = _ids(tokenizer, [PLAIN_PROMPT], prompt=True)
    (plain,) = _ids(tokenizer, [PLAIN_CHAT], prompt=False)
    check_template(tokenizer.decode(asked), tokenizer.decode(plain))
    specials = special_ids(tokenizer)
    limits = RowLimits(max_length, frozenset(stop_ids), frozenset(specials), special_count(plain, specials))
    examples = []
    faulty: dict[Fault, list[int]] = {fault: [] for fault in FAULTS}
    for number, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True), 1):
        fault = mask_fault(prompt, whole, limits)
        if fault is not None:
            faulty[fault].append(number)
        examples.append(Example(whole, [IGNORED] * len(prompt) + whole[len(prompt) :]))
    longest = max(len(example.input_ids) for example in examples)
    for fault, numbers in faulty.items():
        what = FAULTS[fault]
        if fault == "rows_too_long":
            what = f"are longer than {limit}, {max_length} tokens (the longest has {longest})"
        _refuse(numbers, split, what, fault, param)
    return examples


def _ids(tokenizer: Any, chats: list[Any], *, prompt: bool) -> list[list[int]]:
    from jinja2 import TemplateError

    try:
        encoded: list[list[int]] = tokenizer.apply_chat_template(
            chats, add_generation_prompt=prompt, return_dict=False, **CHAT_TEMPLATE_KWARGS
        )
    except TemplateError as error:
        # Its text is the template's own, which may quote what it was given.
        raise InvalidInput(
            "the base model's chat template refuses the rows' messages, a system message (the instruction),"
            " the user's and the assistant's: it may know no system messages",
            code="invalid_base_model",
            param="model",
        ) from error
    return encoded


def _refuse(numbers: list[int], split: str, what: str, code: Fault, param: str) -> None:
    if not numbers:
        return
    named = ", ".join(map(str, numbers[:_NAMED_ROWS])) + (", …" if len(numbers) > _NAMED_ROWS else "")
    raise InvalidInput(
        f"{len(numbers)} rows of the {split} split {what}: rows {named}", code=code, param=param
    )


def pad_id(tokenizer: Any, stops: Collection[int]) -> int:
    """Return a token id to pad with that does not end a turn.

    Padding is masked out of attention and loss; yet where pad and end-of-turn are one id, as in
    many bases, a library that masks "the pad token" also masks the end of every answer. An
    existing id is taken, because a new one would resize the embeddings, which vLLM refuses.
    """
    for candidate in (tokenizer.pad_token_id, tokenizer.unk_token_id):
        if candidate is not None and candidate not in stops:
            return int(candidate)
    return next(token for token in range(len(tokenizer)) if token not in stops)


def filler(pad: int) -> Example:
    """Return a row that trains nothing, for ranks that have fewer rows than others."""
    return Example([pad, pad], [IGNORED, IGNORED])


def token_count(examples: Iterable[Example]) -> int:
    """Return how many tokens the examples have, without padding."""
    return sum(len(example.input_ids) for example in examples)
