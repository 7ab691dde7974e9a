"""Entry point of group ``vllm.general_plugins``."""

RESOLVER_NAME = "narrowcast"
_CPU_LORA = "narrowcast_inference.cpu_lora.GroupedPunicaWrapper"


def register() -> None:
    """Register the resolver, and on a CPU our LoRA kernel.

    Runs in every vLLM process, maybe twice; touches neither disk nor network and needs no
    settings, so that another vLLM in the same environment is not disturbed.
    """
    from vllm.lora.resolver import LoRAResolverRegistry
    from vllm.platforms import current_platform

    from narrowcast_inference.orphans import end_with_parent
    from narrowcast_inference.resolver import AdapterResolver

    end_with_parent()
    if not is_registered():
        LoRAResolverRegistry.register_resolver(RESOLVER_NAME, AdapterResolver())
    if current_platform.is_cpu():
        from vllm.platforms.cpu import CpuPlatform

        CpuPlatform.get_punica_wrapper = classmethod(_cpu_lora)  # type: ignore[assignment,method-assign]


def _cpu_lora(_platform: type) -> str:
    return _CPU_LORA


def is_registered() -> bool:
    """Whether vLLM knows our resolver in this process."""
    from vllm.lora.resolver import LoRAResolverRegistry

    return RESOLVER_NAME in LoRAResolverRegistry.get_supported_resolvers()
