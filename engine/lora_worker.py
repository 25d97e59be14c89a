"""What vLLM's workers on a CPU lack for runtime LoRA: mixtures of experts.

vLLM 0.32 computes experts with Triton as soon as LoRA is enabled, also where no expert has an
adapter (model_executor/layers/fused_moe/oracle/unquantized.py). A CPU has no Triton: the first
request would end the engine. Ours train the attention of such a model only (data/base_model.py), so
its experts may be computed as without LoRA.

vLLM imports this module in each worker (--worker-extension-cls) before it loads the model.
"""

from typing import Any

from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method as experts

from selfstudy_engine.engine.lora_plugin import FastLoraWorker

_select = experts.select_unquantized_moe_backend


def _select_without_lora(moe_config: Any) -> Any:
    moe_config.is_lora_enabled = False
    return _select(moe_config)


experts.select_unquantized_moe_backend = _select_without_lora


class LoraWorker(FastLoraWorker):
    """What vLLM's worker mixes in."""
