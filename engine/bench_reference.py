"""The contenders that aren't a server, each in a process of its own:
`python -m selfstudy_engine.engine.bench_reference KIND SETTINGS`.

Reads one workload a line from stdin, writes one pass a line to stdout; both JSON. Whatever its
libraries print goes to stderr.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

MOST_AT_ONCE = 64
"""Sequences that transformers computes at once at most; more and their keys and values would leave
other contenders on the same GPU too little memory."""


@dataclass(frozen=True, slots=True)
class ReferenceSettings:
    """What all references need."""

    model: str
    dtype: str
    adapter: str | None = None
    """PEFT folder, merged into the weights; None is the base model."""
    llm_arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of vllm.LLM."""
    trust_remote_code: bool = False
    engine_arguments: Sequence[str] = ()
    """A server's, for vllm.LLM to compute as that server does; empty: as the fields above say."""


class Reference(Protocol):
    """Something that completes prompts."""

    def forget(self) -> None:
        """Drop what is cached of earlier prompts, as a swap makes our server do before a pass."""

    def complete(self, prompts: list[str], params: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """Return, for each prompt, its n completions as fields of `Completion`."""


class TransformersReference:
    """`generate` of transformers.

    Args:
        settings: the model.
        cached: keep keys and values; without, the whole sequence is run again for each token.
    """

    def __init__(self, settings: ReferenceSettings, *, cached: bool) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        trust = settings.trust_remote_code
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            settings.model, padding_side="left", trust_remote_code=trust
        )
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        model: Any = AutoModelForCausalLM.from_pretrained(
            settings.model, dtype=getattr(torch, settings.dtype), trust_remote_code=trust
        )
        if settings.adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, settings.adapter).merge_and_unload()
        # As in our servers, a model's own file names ends of text, and says nothing of sampling.
        own = model.generation_config.eos_token_id
        ends = {self._tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
        model.generation_config = GenerationConfig(eos_token_id=sorted(ends) or None)
        self._ends = ends | {self._tokenizer.pad_token_id}
        self._model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self._cached = cached
        self._batch_size = 0 if cached else 1

    def forget(self) -> None:
        """Nothing: `generate` keeps nothing between calls."""

    def complete(self, prompts: list[str], params: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """See `Reference`; the first call finds the best batch size, so it isn't to be timed."""
        if not self._batch_size:
            self._batch_size = self._best_batch_size(prompts, params)
        repeated = [prompt for prompt in prompts for _ in range(params["n"])]
        flat: list[dict[str, Any]] = []
        for start in range(0, len(repeated), self._batch_size):
            flat += self._batch(repeated[start : start + self._batch_size], params)
        n = params["n"]
        return [flat[index : index + n] for index in range(0, len(flat), n)]

    def _best_batch_size(self, prompts: list[str], params: dict[str, Any]) -> int:
        """Return the number of sequences that gives the most tokens per second."""
        best, best_rate = 1, 0.0
        short = params | {"max_tokens": min(12, params["max_tokens"]), "ignore_eos": True}
        size = 8
        while size <= MOST_AT_ONCE:
            batch = (prompts * (size // len(prompts) + 1))[:size]
            started = time.perf_counter()
            self._batch(batch, short)
            rate = size / (time.perf_counter() - started)
            if rate < best_rate:
                break
            best, best_rate = size, rate
            size *= 2
        sys.stderr.write(f"transformers: batches of {best}\n")
        return best

    def _batch(self, prompts: list[str], params: dict[str, Any]) -> list[dict[str, Any]]:
        import torch

        inputs = self._tokenizer(prompts, return_tensors="pt", padding=True).to(self._model.device)
        greedy = params["temperature"] == 0
        # From all tokens, where transformers' own default is the 50 likeliest.
        chosen = {"temperature": params["temperature"], "top_p": params["top_p"], "top_k": 0}
        sampling = {} if greedy else chosen
        stops = params["stop"]
        minimum = params["max_tokens"] if params["ignore_eos"] else None
        with torch.inference_mode():
            output = self._model.generate(
                **inputs,
                do_sample=not greedy,
                max_new_tokens=params["max_tokens"],
                min_new_tokens=minimum,
                use_cache=self._cached,
                pad_token_id=self._tokenizer.pad_token_id,
                stop_strings=stops or None,
                tokenizer=self._tokenizer if stops else None,
                **sampling,
            )
        new = output[:, inputs["input_ids"].shape[1] :].tolist()
        lengths = inputs["attention_mask"].sum(-1).tolist()
        return [
            self._to_completion(ids, length, params)
            for ids, length in zip(new, lengths, strict=True)
        ]

    def _to_completion(
        self, ids: list[int], num_prompt_tokens: int, params: dict[str, Any]
    ) -> dict[str, Any]:
        length = len(ids)
        if not params["ignore_eos"]:
            length = next(
                (index for index, token in enumerate(ids) if token in self._ends), len(ids)
            )
        text = self._tokenizer.decode(ids[:length], skip_special_tokens=True)
        cut = [stop for stop in params["stop"] if stop in text]
        for stop in cut:
            text = text.partition(stop)[0]
        # The end-of-text token counts; what follows a stop string is padding.
        num_tokens = length + (length < len(ids) and not cut)
        reason = "stop" if cut or length < params["max_tokens"] else "length"
        return _completion(text, reason, num_prompt_tokens, num_tokens)


class OfflineReference:
    """`LLM.generate` of vLLM, base model.

    Parameters that are given leave a model's own file nothing but its ends of text to set.
    """

    def __init__(self, settings: ReferenceSettings) -> None:
        from vllm import LLM

        arguments = settings.llm_arguments | {
            "model": settings.model,
            "dtype": settings.dtype,
            "trust_remote_code": settings.trust_remote_code,
        }
        if settings.engine_arguments:
            arguments = as_a_server(settings.engine_arguments)
        self._llm = LLM(**arguments)

    def forget(self) -> None:
        """See `Reference`."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM didn't reset its prefix cache: requests still hold it")

    def complete(self, prompts: list[str], params: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """See `Reference`."""
        from vllm import SamplingParams

        outputs = self._llm.generate(prompts, SamplingParams(**params), use_tqdm=False)
        return [
            [
                _completion(
                    choice.text,
                    choice.finish_reason,
                    len(output.prompt_token_ids or []),
                    len(choice.token_ids),
                )
                for choice in output.outputs
            ]
            for output in outputs
        ]


def as_a_server(arguments: Sequence[str]) -> dict[str, Any]:
    """Return keyword arguments of vllm.LLM with which it computes as a server does.

    Args:
        arguments: of the server's command line, for its engine.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    def read() -> EngineArgs:
        parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
        return EngineArgs.from_cli_args(parser.parse_args(list(arguments)))

    # Left alone, LLM computes twice as many tokens in a step.
    server = read().create_engine_config(UsageContext.OPENAI_API_SERVER)
    batched_tokens = server.scheduler_config.max_num_batched_tokens
    changed = {"max_num_batched_tokens": batched_tokens, "disable_log_stats": True}
    same: dict[str, Any] = vars(read())
    return same | changed


def _completion(text: str, finish_reason: Any, prompt: int, output: int) -> dict[str, Any]:
    return {
        "text": text,
        "finish_reason": finish_reason,
        "num_prompt_tokens": prompt,
        "num_output_tokens": output,
    }


def _make(kind: str, settings: ReferenceSettings) -> Reference:
    if kind == "offline":
        return OfflineReference(settings)
    return TransformersReference(settings, cached=kind == "transformers")


def main(kind: str, settings: str) -> None:
    """Load a reference, say so, and answer workloads until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print where the answers go
    reference = _make(kind, ReferenceSettings(**orjson.loads(settings)))
    answers.write(b'{"ready":true}\n')
    answers.flush()
    for line in sys.stdin.buffer:
        asked = orjson.loads(line)
        reference.forget()
        started = time.perf_counter()
        if asked["one_by_one"]:
            completions = [
                reference.complete([prompt], asked["params"])[0] for prompt in asked["prompts"]
            ]
        else:
            completions = reference.complete(asked["prompts"], asked["params"])
        seconds = time.perf_counter() - started
        answers.write(orjson.dumps({"seconds": seconds, "completions": completions}) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
