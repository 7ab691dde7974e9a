"""vLLM with a resolver that fetches adapters from S3 when a request names them.

Only :mod:`.resolver`, :mod:`.plugin`, :mod:`.cpu_lora` and the launcher import vllm, and
all but the first do so inside functions.
"""
