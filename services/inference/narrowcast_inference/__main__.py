"""Starts vLLM with our resolver: ``python -m narrowcast_inference``.

In this very process, rather than by an exec, so that the seconds in which vllm and torch are
imported for the checks are not spent twice. The guard at the end matters: vLLM spawns its
engine, and a spawned process imports this module again.
"""

import json
import os
import runpy
import sys
from pathlib import Path

from narrowcast import logs
from narrowcast.adapters import base_fingerprint, published_adapters
from narrowcast.context import context_length
from narrowcast.errors import NarrowcastError, Unavailable
from narrowcast.masking import special_ids, stop_ids
from narrowcast.settings import WRONG_SETTINGS, settings_or_exit
from narrowcast.storage import Storage
from narrowcast_inference.arguments import PLUGIN, cpu_environment, vllm_arguments, vllm_environment
from narrowcast_inference.cache import cached_adapters
from narrowcast_inference.cleaning import claim_and_clean
from narrowcast_inference.metrics import CACHED
from narrowcast_inference.settings import InferenceSettings
from narrowcast_inference.vllm_logging import SERVICE, write_config

_API_SERVER = "vllm.entrypoints.openai.api_server"
_LOGGING_CONFIG = "vllm-logging.json"

log = logs.get(__name__)


def main() -> int:
    """Check everything that can be checked, then serve until SIGTERM.

    Returns:
        The exit status, 2 for settings that cannot work.
    """
    settings = settings_or_exit(InferenceSettings, SERVICE)
    logs.configure(SERVICE, settings.log_level)
    try:
        _prepare(settings)
        _check_resolver()
    except (NarrowcastError, OSError) as error:
        log.critical("cannot start", exc_info=error)
        return WRONG_SETTINGS
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    if on_cpu:
        os.environ.update(cpu_environment(settings.inference))
    sys.argv = [_API_SERVER, *vllm_arguments(settings.inference, on_cpu=on_cpu)]
    log.info("starting vLLM", base_model=settings.inference.base_model, arguments=sys.argv[1:])
    runpy.run_module(_API_SERVER, run_name="__main__")
    return 0


def _prepare(settings: InferenceSettings) -> None:
    section = settings.inference
    models = Storage(settings.storage).models
    claim_and_clean(section.cache_dir, section.cache_max_bytes, lambda: published_adapters(models))
    CACHED.set_function(lambda: cached_adapters(section.cache_dir))
    section.base_fingerprint = base_fingerprint(section.base_model_path)
    if section.trained_base_path not in (None, section.base_model_path):
        trained = base_fingerprint(section.trained_base_path)
        section.accepted_fingerprints = (*section.accepted_fingerprints, trained)
    section.stop_token_ids, section.special_token_ids = _token_ids(section.base_model_path)
    section.context_length = context_length(
        json.loads((section.base_model_path / "config.json").read_text(encoding="utf-8"))
    )
    logging_config = section.cache_dir / _LOGGING_CONFIG
    write_config(logging_config, settings.log_level)
    os.environ.update(vllm_environment(section, str(logging_config)))


def _token_ids(base: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of the tokens that end a turn and of those that are no text, as a training takes them.

    Raises:
        OSError: the folder has no tokenizer; vLLM could not serve it either.
    """
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    has_config = (base / "generation_config.json").is_file()
    config = GenerationConfig.from_pretrained(base, local_files_only=True) if has_config else None
    return tuple(sorted(stop_ids(tokenizer, config))), tuple(sorted(special_ids(tokenizer)))


def _check_resolver() -> None:
    """Load vLLM's plugins as it will.

    Raises:
        Unavailable: ours did not load; vLLM itself would serve on and answer 404 for each adapter.
    """
    from vllm.plugins import load_general_plugins

    from narrowcast_inference.plugin import is_registered

    load_general_plugins()  # type: ignore[no-untyped-call]
    if not is_registered():
        raise Unavailable(f"vLLM did not load the plugin {PLUGIN}", code="resolver_not_registered")


if __name__ == "__main__":
    sys.exit(main())
