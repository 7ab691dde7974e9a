"""The steps of an export, from the adapter in S3 to the published files."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import SecretStr

from narrowcast.adapters import AdapterManifest, adapter_prefix, base_fingerprint
from narrowcast.artifacts import MANIFEST, fetch, publish, read_manifest
from narrowcast.context import context_length
from narrowcast.errors import JobFailed, NotFound
from narrowcast.exports import ExportManifest, Quantization, export_prefix
from narrowcast.storage import Bucket, Storage
from narrowcast_trainer.checks import base_folder
from narrowcast_trainer.data import stop_ids
from narrowcast_trainer.export.gguf import LlamaCpp
from narrowcast_trainer.export.hub import HubOrder, check_destination, push
from narrowcast_trainer.export.hub_card import add_hub_card
from narrowcast_trainer.export.merge import check_16bit, merge
from narrowcast_trainer.export.ollama import chat_format, modelfile
from narrowcast_trainer.export.order import ExportOrder
from narrowcast_trainer.export.space import check_space
from narrowcast_trainer.patience import patiently
from narrowcast_trainer.protocol import Advanced
from narrowcast_trainer.reporter import Reporter

MODELFILE: Final = "Modelfile"
LORA_GGUF: Final = "adapter-f16.gguf"
_F16: Final[Quantization] = "f16"
T = TypeVar("T")


def run_export(order: ExportOrder, reporter: Reporter) -> dict[str, Any]:
    """Make, publish and push what was ordered; return the job's result.

    Raises:
        JobFailed: for a reason that another attempt would meet again.
        Unavailable: the object store or the hub does not answer, or ``work_dir`` is full.
    """
    return _Export(order, reporter).run()


def model_file(quantization: Quantization) -> str:
    """Return the name of a model's GGUF."""
    return f"model-{quantization}.gguf"


class _Export:
    def __init__(self, order: ExportOrder, reporter: Reporter) -> None:
        self._order = order
        self._spec = order.spec
        self._quantization: Quantization = order.spec.quantization or _F16
        self._reporter = reporter
        self._models: Bucket = Storage(order.storage).models
        self._prefix = export_prefix(order.tenant, order.job_id)
        self._scratch = order.settings.work_dir / order.job_id
        self._llama = LlamaCpp(order.settings.llama_cpp_dir)

    def run(self) -> dict[str, Any]:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        # Everything that may be refused, before the work.
        token = self._check_hub()
        try:
            manifest = read_manifest(self._models, self._prefix, ExportManifest)
            files = None  # published, and then the worker died, or the hub was away
        except NotFound:
            source = self._adapter_manifest()
            files = self._make(source)
            manifest = self._patiently(partial(self._publish, source, files))
        url = None if token is None else self._patiently(partial(self._push, token, files, manifest))
        entries = {name: entry.model_dump() for name, entry in manifest.files.items()}
        return {"files": entries, "hub_url": url}

    def _check_hub(self) -> SecretStr | None:
        destination = self._spec.push_to_hub
        if destination is None:
            return None
        token = check_destination(destination, self._order.hub)
        self._advanced("asking the hub")
        push(HubOrder(destination=destination, token=token, folder=None))
        return token

    def _make(self, manifest: AdapterManifest) -> Path:
        base = base_folder(self._order.settings.models_dir, self._spec.base_model)
        if self._spec.format != "lora-gguf":
            check_16bit(base)
        if self._spec.format != "merged":
            self._llama.check()
        check_base(base, manifest)
        modelfile_text = None if self._spec.format == "merged" else self._modelfile(base, manifest)
        size = sum(entry.size for entry in manifest.files.values())
        check_space(self._scratch, base, size, self._spec.format)
        self._advanced("fetching the adapter")
        adapter = self._scratch / "adapter"
        fetch(self._models, adapter_prefix(self._order.tenant, manifest.id), manifest, adapter)
        files = self._scratch / "export"
        if modelfile_text is None:
            merge(base, adapter, files, "base", self._advanced)
            return files
        files.mkdir()
        (files / MODELFILE).write_text(modelfile_text)
        if self._spec.format == "gguf":
            self._make_gguf(base, adapter, files)
        else:
            self._make_lora_gguf(base, adapter, files)
        return files

    def _make_gguf(self, base: Path, adapter: Path, files: Path) -> None:
        merged, whole = self._scratch / "merged", self._scratch / model_file(_F16)
        merge(base, adapter, merged, "f16", self._advanced)
        self._advanced("converting to GGUF")
        self._llama.convert(merged, whole)
        shutil.rmtree(merged)  # its room is needed
        model = files / model_file(self._quantization)
        if self._quantization == _F16:
            whole.rename(model)
        else:
            self._advanced(f"quantising to {self._quantization}")
            self._llama.quantize(whole, model, self._quantization, self._order.settings.threads or 0)
            whole.unlink()

    def _make_lora_gguf(self, base: Path, adapter: Path, files: Path) -> None:
        check_uniform(adapter)
        self._advanced("converting to GGUF")
        self._llama.convert_lora(adapter, base, files / LORA_GGUF)

    def _modelfile(self, base: Path, manifest: AdapterManifest) -> str:
        from transformers import AutoTokenizer, GenerationConfig

        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        has_generation = (base / "generation_config.json").is_file()
        generation = GenerationConfig.from_pretrained(base, local_files_only=True) if has_generation else None
        stops = tokenizer.convert_ids_to_tokens(sorted(stop_ids(tokenizer, generation)))
        alone = self._spec.format == "lora-gguf"
        return modelfile(
            f"{manifest.base.name}.gguf" if alone else model_file(self._quantization),
            chat_format(tokenizer),
            instruction=manifest.prompt.default_instruction,
            stops=list(stops),
            context=context_length(json.loads((base / "config.json").read_text())),
            adapter=LORA_GGUF if alone else None,
        )

    def _publish(self, source: AdapterManifest, files: Path) -> ExportManifest:
        with suppress(NotFound):  # another attempt has published meanwhile: somebody may be reading it
            return read_manifest(self._models, self._prefix, ExportManifest)
        self._advanced("storing the files")
        self._models.delete_prefix(self._prefix)  # an attempt that died here left files without a manifest
        manifest = ExportManifest(
            id=self._order.job_id,
            tenant=self._order.tenant,
            adapter=source.id,
            base=source.base,
            format=self._spec.format,
            quantization=self._spec.quantization,
        )
        contents = {file.name: file for file in sorted(files.iterdir())}
        return publish(self._models, self._prefix, contents, manifest)

    def _push(self, token: SecretStr, files: Path | None, manifest: ExportManifest) -> str:
        destination = self._spec.push_to_hub
        assert destination is not None  # noqa: S101 - else there is no token
        if files is None:
            files = self._scratch / "export"
            shutil.rmtree(files, ignore_errors=True)
            fetch(self._models, self._prefix, manifest, files)
            (files / MANIFEST).unlink()
        # That the adapter is gone by now does not matter to what is made of it.
        with suppress(JobFailed, NotFound):
            adapter = self._adapter_manifest()
            add_hub_card(self._models, adapter, manifest.format, destination.base_model, files)
        self._advanced("pushing to the hub")
        message = f"{manifest.adapter} as {manifest.format} {manifest.quantization or ''}".rstrip()
        order = HubOrder(destination=destination, token=token, folder=files, message=message)
        return push(order)

    def _adapter_manifest(self) -> AdapterManifest:
        prefix = adapter_prefix(self._order.tenant, self._spec.adapter)
        try:
            return read_manifest(self._models, prefix, AdapterManifest)
        except NotFound:
            raise JobFailed(
                f"adapter {self._spec.adapter} does not exist any more",
                code="adapter_not_found",
                param="adapter",
            ) from None

    def _patiently(self, action: Callable[[], T]) -> T:
        """Return what ``action`` returns: hours of work are not thrown away for a minute's absence."""
        warn = partial(self._reporter.note, warn=True)
        patience_s = self._order.settings.storage_patience_s
        return patiently(action, patience_s, say=warn, beat=self._reporter.tick)

    def _advanced(self, step: str) -> None:
        self._reporter.send(Advanced(step=step))
        self._reporter.note(step)


def check_base(base: Path, manifest: AdapterManifest) -> None:
    """Check that this node's base is the one that the adapter was trained on.

    Raises:
        JobFailed: ``base_changed``.
    """
    fingerprint = base_fingerprint(base)
    if fingerprint != manifest.base.fingerprint:
        raise JobFailed(
            f"this trainer's {manifest.base.name} is not the one that {manifest.id} was trained on: its"
            f" fingerprint is {fingerprint[:12]}…, the adapter's base's {manifest.base.fingerprint[:12]}…",
            code="base_changed",
        )


def check_uniform(adapter: Path) -> None:
    """Check that llama.cpp scales the adapter as PEFT does: by one alpha over the rank.

    Raises:
        JobFailed: ``adapter_not_portable``.
    """
    config = json.loads((adapter / "adapter_config.json").read_text())
    for setting in ("use_rslora", "alpha_pattern", "fan_in_fan_out"):
        if config.get(setting):
            raise JobFailed(
                f"llama.cpp does not apply an adapter with {setting}; export it as gguf",
                code="adapter_not_portable",
                param="format",
            )
