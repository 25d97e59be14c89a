"""A plugin of vLLM: a request with a seed doesn't end the engine on a CPU.

What vLLM 0.32 samples after a part of a prompt it throws away, and turns the request's generator
back by the offset that only a GPU's has. Does nothing unless our server asks for it.
"""

from typing import Any

from selfstudy_engine.engine.vllm_plugin import change_if_asked

CPU_SEEDS_VARIABLE = "SELFSTUDY_CPU_SEEDS"
"""Our server sets it to "1" in its child's environment to ask for the plugin."""


def register() -> None:
    """Give requests generators that turn back, or log why not (`vllm.general_plugins`)."""
    change_if_asked(
        CPU_SEEDS_VARIABLE, _replace_generators, "A request with a seed may end the engine"
    )


def _replace_generators() -> str:
    import torch
    from vllm.platforms import current_platform
    from vllm.v1.worker.gpu_input_batch import InputBatch  # that of CPUs, too

    class RewindingGenerator(torch.Generator):
        """A generator of a CPU that turns back to its mark, whatever offset it is given."""

        def mark(self) -> None:
            self._marked = self.get_state()

        def get_offset(self) -> int:
            return 0

        def set_offset(self, offset: int) -> torch.Generator:
            return self.set_state(self._marked)

    if not current_platform.is_cpu():
        return f"its generators are for a CPU, and this is {current_platform.device_type}"
    add_request = InputBatch.add_request
    if add_request.__module__ == __name__:  # vLLM may load a plugin several times
        return ""

    def add_rewinding(batch: Any, request: Any) -> Any:
        # Only between here and the end of its prompt is what a request draws thrown away; one that
        # was preempted comes by again.
        generator = request.generator
        if generator is not None:
            if not isinstance(generator, RewindingGenerator):
                request.generator = RewindingGenerator(device="cpu")
                request.generator.set_state(generator.get_state())
            request.generator.mark()
        return add_request(batch, request)

    InputBatch.add_request = add_rewinding
    return ""
