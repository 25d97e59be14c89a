"""What an adapter answers to fixed prompts, so that a server can be shown to answer from it."""

import math
from collections.abc import Sequence

import torch
from peft import PeftModel

from selfstudy_engine.data.adapters import MAX_PROBE_TOKENS, NUM_CONTINUED, Probe
from selfstudy_engine.data.errors import TrainingError

MIN_MEAN_SHIFT = 1e-3
"""Mean change of log-probability below which an adapter counts as not trained."""


@torch.inference_mode()
def probe_adapter(model: PeftModel, texts: Sequence[list[int]]) -> list[Probe]:
    """Return log-probabilities of fixed texts with the adapter and without it.

    Args:
        model: with the trained adapter active.
        texts: token ids of each text, at least two tokens; see `shorten`.

    Raises:
        TrainingError: the adapter changes nothing, or gives values that aren't finite.
    """
    model.eval()
    probes, shifts = [], []
    for token_ids in texts:
        ids = shorten(token_ids)
        adapted, next_logprob = _logprobs(model, ids)
        with model.disable_adapter():
            base, _ = _logprobs(model, ids)
        shifts += [abs(a - b) for a, b in zip(adapted, base, strict=True)]
        probes.append(Probe(ids, adapted, base, next_logprob))
    shift = sum(shifts) / len(shifts)
    if not math.isfinite(shift):
        raise TrainingError(
            f"the trained adapter gives log-probabilities that aren't finite ({shift}); lower "
            "train.learning_rate or train in another --dtype"
        )
    if shift <= MIN_MEAN_SHIFT:
        raise TrainingError(
            f"the trained adapter changes log-probabilities by {shift:.2g} on average, less than "
            f"{MIN_MEAN_SHIFT:g}: it learned nothing; raise train.learning_rate or train.epochs"
        )
    return probes


def shorten(token_ids: list[int]) -> list[int]:
    """Return a text's first token and what stands before its value, at most MAX_PROBE_TOKENS.

    The answer is what an adapter learns, and stands at the end; the first token is one that models
    lean on, such as the beginning of a text. A server is asked for the value, so it is left out.

    >>> text = shorten(list(range(200)))
    >>> text[:3], text[-1], len(text)
    ([0, 101, 102], 195, 96)
    """
    before_value = token_ids[: max(2, len(token_ids) - NUM_CONTINUED)]
    if len(before_value) <= MAX_PROBE_TOKENS:
        return before_value
    return [before_value[0], *before_value[1 - MAX_PROBE_TOKENS :]]


def _logprobs(model: PeftModel, token_ids: list[int]) -> tuple[list[float], float]:
    ids = torch.tensor([token_ids], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0].float()
    logprobs = logits.log_softmax(-1)
    of_tokens = logprobs[:-1].gather(-1, ids[0, 1:, None])[:, 0]
    return of_tokens.tolist(), float(logprobs[-1].max())
