"""An adapter's manifest and PEFT configuration: what they must hold before anything is loaded."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

MAX_RANK = 512
"""The largest that vLLM serves, and that training makes."""
_SEAL = "manifest_sha256"


class _Strict(BaseModel):
    """A number is no text, a text no number, and what isn't named here is left alone."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class ProbeEntry(_Strict):
    """See `adapters.Probe`."""

    token_ids: list[Annotated[int, Field(ge=0)]] = Field(min_length=2)
    adapter_logprobs: list[float]
    base_logprobs: list[float]
    next_logprob: float

    @model_validator(mode="after")
    def _every_token_but_the_first_has_its_own(self) -> Self:
        for values in (self.adapter_logprobs, self.base_logprobs):
            if len(values) != len(self.token_ids) - 1:
                raise ValueError(f"{len(values)} logprobs for {len(self.token_ids)} tokens")
        return self


class Manifest(_Strict):
    """What a manifest says of its folder."""

    name: str = Field(min_length=1)
    base_model: str = Field(min_length=1)
    base_fingerprint: str = Field(min_length=1)
    files: dict[str, str]
    """Name -> SHA-256."""
    canary: list[ProbeEntry] = Field(min_length=1)
    training: dict[str, Any]


class LoraShape(_Strict):
    """The part of PEFT's configuration that decides what is multiplied with what."""

    r: int = Field(ge=1, le=MAX_RANK)
    lora_alpha: float = Field(gt=0)
    use_rslora: StrictBool | None = None

    @property
    def scaling(self) -> float:
        """The factor of the product B @ A."""
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)


def seal_manifest(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with its own SHA-256 in it."""
    bare = {key: value for key, value in content.items() if key != _SEAL}
    return bare | {_SEAL: _hash(bare)}


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Tell whether a manifest is what was sealed; those of earlier versions have no seal."""
    bare = {key: value for key, value in content.items() if key != _SEAL}
    return _SEAL not in content or content[_SEAL] == _hash(bare)


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
