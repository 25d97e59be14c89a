"""The resolved configuration of a run: defaults < run TOML < command line.

Every option has one home here: its default, its limits and (as docstring) the text that the
command line shows. The resolved configuration is written into the run folder as run.toml, and the
training process reads that file.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from selfstudy_engine.data.errors import UsageError, shown, shown_text
from selfstudy_engine.data.findings import REJECT_BY_DEFAULT, Finding
from selfstudy_engine.data.prompts import Template
from selfstudy_engine.data.properties import Property, find_property
from selfstudy_engine.data.remote_address import RemoteAddress
from selfstudy_engine.data.vllm_arguments import refuse_arguments


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class TableConfig(_Section):
    """Where the molecules come from, and how they are split."""

    path: str | None = None
    """CSV, TSV, Parquet or SDF file of molecules [default: the embedded melting-point table]."""
    smiles_column: str = "smiles"
    """Column that holds SMILES."""
    value_column: str = "value"
    """Column that holds the measured value."""
    name_column: str | None = None
    """Column that holds names [default: none, molecules are known by SMILES alone]."""
    value_unit: str | None = None
    """Unit of the value column (K, °F, ...) [default: the property's own unit]."""
    organics: bool = False
    """Keep small neutral organic molecules only, as the embedded table does."""
    salts: Literal["keep", "drop", "strip"] = "keep"
    """What to do with salts and mixtures; strip keeps the largest organic part, uncharged."""
    duplicates: Literal["molecule", "skeleton"] = "molecule"
    """Rows that are one molecule: of one InChIKey, or of one first block (stereo left out), as in
    the embedded table."""
    conflicts: Literal["refuse", "drop"] = "refuse"
    """What to do with one molecule whose values are too far apart; the embedded table's are
    dropped."""
    max_spread: float | None = Field(default=None, gt=0)
    """Values of one molecule further apart than this conflict, in the property's unit [default: the
    property's tolerance; 20 in the embedded table]."""
    split: Literal["random", "scaffold"] = "random"
    """How the test set is chosen: at random by skeleton, or whole Bemis-Murcko scaffolds."""
    test_size: int = Field(default=200, ge=1)
    """Molecules held out for the test set, never trained on."""


class ModelConfig(_Section):
    """The base model."""

    path: str | None = None
    """Hub id or folder of the base model [default: the embedded SmolLM2-135M-Instruct]."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights; auto is bfloat16 where the hardware has it, else float32."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository brings along."""


class TeacherConfig(_Section):
    """Where exemplars come from."""

    exemplars: str | None = None
    """JSONL file of exemplars (name, smiles, value, reason) [default: the ten shipped ones]."""
    url: str | None = Field(default=None, pattern="^https?://")
    """OpenAI-compatible server that explains molecules, e.g. https://api.openai.com/v1."""
    model: str = "gpt-4"
    """Model name at the teacher's URL."""
    num_exemplars: int = Field(default=10, ge=1, le=1000)
    """Molecules that the teacher explains."""
    max_tokens: int = Field(default=1024, ge=16)
    """Longest answer of the teacher, in tokens; a model that thinks first needs more."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """The teacher's sampling temperature [default: its server's own]."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Molecules that the teacher explains at once; each has one question in flight."""
    timeout_seconds: float = Field(default=120, gt=0)
    """Longest wait for one answer of the teacher, in seconds."""
    price_in: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens at the teacher, in any currency."""
    price_out: float | None = Field(default=None, ge=0)
    """Price of a million output tokens at the teacher, in the same currency."""
    max_cost: float | None = Field(default=None, gt=0)
    """Most that the teacher may cost, earlier calls included; nothing is asked that could exceed
    it."""

    @model_validator(mode="after")
    def _url_has_no_secret(self) -> Self:
        # Not a check of the field alone: its message would show the value.
        if self.url and "@" in self.url:
            raise ValueError("url is written into files: leave the key out, set OPENAI_API_KEY")
        return self

    @model_validator(mode="after")
    def _cost_has_prices(self) -> Self:
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out go together: give both, 0 where it is free")
        if self.max_cost is not None and self.price_in is None:
            raise ValueError(
                f"max_cost ({self.max_cost:g}) can't be kept without prices; give --price-in and "
                "--price-out (per million tokens), or leave out --max-cost"
            )
        return self


class GenerationConfig(_Section):
    """How the loop asks the model."""

    batch: int = Field(default=256, ge=1)
    """Completions per round."""
    samples_per_molecule: int = Field(default=2, ge=1, le=128)
    """Completions per molecule (n of one request)."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Sampling temperature; test-set answers are always greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: the probability mass that is sampled from."""
    max_tokens: int = Field(default=64, ge=8)
    """Longest completion, in tokens."""
    template: Template = "facts"
    """Form of prompts, in training too; facts adds a line that RDKit computes."""
    prompt_exemplars: int = Field(default=0, ge=0)
    """Exemplars shown in each prompt; the adapter knows the form without them."""
    concurrency: int | None = Field(default=None, ge=1)
    """Completions in flight at once, at each server [default: as many as its metrics allow]."""
    request_timeout_seconds: float = Field(default=600, gt=0)
    """Longest wait for one answer, in seconds."""

    @model_validator(mode="after")
    def _batch_is_whole(self) -> Self:
        if self.batch % self.samples_per_molecule:
            raise ValueError(
                f"batch ({self.batch}) must be a multiple of samples_per_molecule "
                f"({self.samples_per_molecule}); try {self.nearest_batch}"
            )
        return self

    @property
    def nearest_batch(self) -> int:
        """The next multiple of samples_per_molecule."""
        return -(-self.batch // self.samples_per_molecule) * self.samples_per_molecule


class SamplerConfig(_Section):
    """Which molecules a round asks about."""

    strategy: Literal["balanced", "original"] = "balanced"
    """balanced: the whole pool, evenly over its values; original: the same molecules each round."""
    num_value_bands: int = Field(default=8, ge=1)
    """Quantiles of the measured values that a round asks about equally often."""


class VerdictConfig(_Section):
    """How answers are judged."""

    reject: list[Finding] = list(REJECT_BY_DEFAULT)
    """Findings that reject an answer; the others are only recorded."""
    max_accepted_per_molecule: int = Field(default=4, ge=0)
    """Texts that may be accepted for one molecule over the whole run; 0 sets no limit."""
    similarity: float = Field(default=0.8, gt=0, le=1)
    """Share of four-word sequences from which on two reasons count as near-duplicates."""
    tolerance_rule: Literal["fixed", "quantile"] = "fixed"
    """fixed: the property's tolerance; quantile: a quantile of the last round's errors."""
    tolerance_quantile: float = Field(default=0.3, gt=0, lt=1)
    """Quantile rule: share of the last round's answers that lie within this round's tolerance."""
    min_tolerance: float = Field(default=0.0, ge=0)
    """Quantile rule: smallest tolerance, in the property's unit; the largest is the property's."""

    @model_validator(mode="after")
    def _without_a_value_nothing_is_accepted(self) -> Self:
        if "no value" not in self.reject:
            raise ValueError('reject must have "no value": such an answer has no error either')
        return self


class RationalizeConfig(_Section):
    """Molecules that keep failing are shown their value, and asked for a reason."""

    enabled: bool = False
    """Ask for reasons in sight of the value, about molecules that keep failing."""
    fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of a round's completions that may be such, at most."""
    after_rounds: int = Field(default=2, ge=1)
    """Rounds that asked about a molecule in vain before it is shown its value."""
    prompt_exemplars: int = Field(default=0, ge=0)
    """Exemplars shown in each prompt that states the value."""


class TrainConfig(_Section):
    """How an adapter is trained. Defaults were measured: docs/decisions.md, "Training defaults"."""

    rank: int = Field(default=16, ge=1, le=512)
    """LoRA rank r."""
    alpha: float = Field(default=32, gt=0)
    """LoRA alpha; the adapter's product is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """Linear layers that get an adapter: "all-linear" or a list of names."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Peak learning rate of AdamW."""
    epochs: float = Field(default=2, gt=0)
    """Passes over the accepted samples."""
    min_steps: int = Field(default=40, ge=1)
    """Optimiser steps at least, however few samples there are: form is learned in steps."""
    tokens_per_step: int = Field(default=256, ge=64)
    """Tokens per optimiser step (packed sequences, no padding)."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the steps over which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    label: Literal["measured", "predicted", "checked"] = "measured"
    """Value that accepted samples are trained on: the table's, the model's own, or the table's
    unless the reason's arithmetic comes to another."""
    hinted_weight: float = Field(default=0.5, gt=0, le=1)
    """Weight of the loss on reasons that were given in sight of the value."""
    reasons: Literal["keep", "drop", "shuffle"] = "keep"
    """Reasons that are trained on: each text's own, none (a direct answer), or another molecule's;
    the last two are for comparison."""
    quantization: Literal["none", "nf4"] = "none"
    """Weights of the base model while an adapter is trained: nf4 has 4 bits (QLoRA, needs
    bitsandbytes). The whole ones are served, so the adapter fits them a little less."""
    start_from: Literal["base", "previous"] = "base"
    """Weights that each round's training starts from."""
    timeout_seconds: float = Field(default=24 * 3600, gt=0)
    """Longest training run, in seconds."""
    stall_seconds: float = Field(default=1800, gt=0)
    """Longest time that a training may show no progress, loading the model included."""


def _as_servers(value: object) -> object:
    """Let one URL come without brackets, and any with a path that OpenAI's clients would have."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(url, str) for url in value):
        return value
    return [url.rstrip("/").removesuffix("/v1") for url in value]


class ServerConfig(_Section):
    """How the vLLM server runs; may change between two calls of the same run."""

    url: Annotated[list[str], BeforeValidator(_as_servers)] = []
    """Use a running server instead of starting one, e.g. http://127.0.0.1:8000; several share the
    prompts."""
    replicas: int = Field(default=1, ge=1, le=1024)
    """Servers that are started and share the prompts, each on GPUs or a node of its own."""
    ray: str = Field(default="off", pattern=r"^(off|auto|[^\s:/]+:[0-9]+)$")
    """Have Ray place servers and training on the nodes of a cluster: HOST:PORT of its head, or auto
    for the one that this machine belongs to."""
    adapter_mode: Literal["merged", "runtime"] = "merged"
    """merged: adapter added into the weights, base-model speed; runtime: vLLM's own LoRA path."""
    fast_lora: bool = True
    """Use the grouped-GEMM path for runtime adapters on a CPU host."""
    max_model_len: int = Field(default=2048, ge=128)
    """Longest prompt plus completion, in tokens."""
    block_size: int = Field(default=32, ge=1)
    """Tokens per KV-cache block; smaller blocks share more of a prompt's prefix."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Completions in one batch [default: a fixed --concurrency; 256 on a CPU, vLLM's on a GPU]."""
    api_server_count: int = Field(default=1, ge=1, le=64)
    """Processes that take requests in; with runtime adapters always one."""
    kv_cache_gib: int = Field(default=2, ge=1)
    """KV cache on a CPU host, in whole GiB, as vLLM takes it there."""
    compilation: Literal["auto", "on", "off"] = "auto"
    """Compile the model at each start; auto does so on a GPU only."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of a GPU's memory that the server may take [default: all but what training needs]."""
    startup_timeout_seconds: float = Field(default=900, gt=0)
    """Longest wait for the server to be ready, in seconds."""
    max_restarts: int = Field(default=3, ge=0)
    """Times that a loop starts its server anew in one round, after the server died."""
    extra_args: list[str] = []
    """Further arguments for vLLM, as after `--` on the command line."""

    @model_validator(mode="after")
    def _nothing_opens_it_or_shows_a_secret(self) -> Self:
        # Not a check of the fields alone: its message would show the value.
        if any("@" in url for url in self.url):
            raise ValueError(
                "url is written into files: leave the key out, set SELFSTUDY_SERVER_KEY"
            )
        if len(set(self.url)) < len(self.url):
            raise ValueError("url names a server twice; name each once")
        if reason := refuse_arguments(self.extra_args):
            raise ValueError(f"extra_args: {reason}")
        return self


_DEVICES = r"^(auto|cpu|cuda(:[0-9]+(,[0-9]+)*)?)$"


class DevicesConfig(_Section):
    """Where server and training compute; may change between two calls of the same run."""

    server: str = Field(default="auto", pattern=_DEVICES)
    """Devices of the server: cpu, cuda:0 or cuda:0,1; auto is the first GPU, or the CPU."""
    train: str = Field(default="auto", pattern=_DEVICES)
    """Devices of training: cpu, cuda:1 or cuda:1,2; auto is the last GPU (accelerate: all but the
    server's), or the CPU."""
    train_launcher: Literal["python", "accelerate"] = "python"
    """What starts the training: python, one process; accelerate, one for each device."""
    num_processes: int | None = Field(default=None, ge=1, le=1024)
    """Processes that accelerate starts [default: one for each GPU; its file's on a CPU]."""
    accelerate_config: str | None = None
    """YAML file of `accelerate config`: FSDP spreads a model that no device holds alone."""
    tokens_per_device: int | None = Field(default=None, ge=1)
    """Tokens that a device computes at once in training; the rest of a step follows (gradient
    accumulation) [default: all of its share]."""

    @model_validator(mode="after")
    def _accelerates_settings_are_used(self) -> Self:
        for key in ("num_processes", "accelerate_config"):
            value = getattr(self, key)
            if value is not None and self.train_launcher != "accelerate":
                raise ValueError(
                    f"{key} ({value}) is for accelerate: add --train-launcher accelerate, or leave "
                    "it out"
                )
        return self


Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
"""Names of accelerate's trackers."""


class RunConfig(_Section):
    """Everything that decides what a run does."""

    name: str = Field(default="default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its folder is RUNS/NAME."""
    rounds: int = Field(default=3, ge=1)
    """Rounds of generate, evaluate, train and swap."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the split, the sampler and the training."""
    overlap: bool = False
    """Train the next adapter while its predecessor generates; pays on a second device."""
    gate: bool = False
    """Keep the last adapter answering where a new one is significantly worse on the test set, which
    then helps to choose: its error is a little too low."""
    property: Property = Field(default_factory=lambda: find_property("melting_point"))
    """What is predicted."""
    remote: str | None = None
    """S3 address, such as s3://bucket/runs, that keeps the run: its folder is a working copy then,
    and another machine can continue it."""
    report: Literal["round", "end", "off"] = "round"
    """When report.html is written: after each round and at the end, at the end alone, or never."""
    track: list[Tracker] = []
    """Where rounds are also shown: tensorboard, wandb, mlflow or trackio, through accelerate."""
    train_evaluation_size: int = Field(default=50, ge=0)
    """Trained-on molecules that are evaluated too, to show memorising."""
    table: TableConfig = TableConfig()
    model: ModelConfig = ModelConfig()
    teacher: TeacherConfig = TeacherConfig()
    generation: GenerationConfig = GenerationConfig()
    sampler: SamplerConfig = SamplerConfig()
    verdict: VerdictConfig = VerdictConfig()
    rationalize: RationalizeConfig = RationalizeConfig()
    train: TrainConfig = TrainConfig()
    server: ServerConfig = ServerConfig()
    devices: DevicesConfig = DevicesConfig()

    @model_validator(mode="after")
    def _remote_is_an_address(self) -> Self:
        # Not a check of the field alone: its message would show the value, which may hold a key.
        if self.remote is not None:
            RemoteAddress.parse(self.remote)
        return self

    @model_validator(mode="after")
    def _hinted_share_is_a_molecule(self) -> Self:
        generation, hinted = self.generation, self.rationalize
        if hinted.enabled and hinted.fraction * generation.batch < generation.samples_per_molecule:
            least = generation.samples_per_molecule / generation.batch
            raise ValueError(
                f"rationalize.fraction ({hinted.fraction:g}) of a batch of {generation.batch} is "
                f"less than the {generation.samples_per_molecule} completions of one molecule; "
                f"give {least:.3g} or more"
            )
        return self

    def to_toml(self) -> str:
        """Write the configuration so that `load_config` reads the same one back."""
        return tomli_w.dumps(self.model_dump(exclude_none=True), multiline_strings=False)

    def differences(self, other: "RunConfig") -> list[str]:
        """Return "key: mine -> other's" for all that decides what the run computes.

        How and where the server runs and is asked, where rounds are shown, how long anything may
        take, and what a teacher may cost, may change between two calls; `rounds` may grow.
        """
        free: dict[str, Any] = {
            "server": True,
            "devices": True,
            "rounds": True,
            "report": True,
            "track": True,
            "generation": {"concurrency", "request_timeout_seconds"},
            "train": {"timeout_seconds", "stall_seconds"},
            "teacher": {"concurrency", "timeout_seconds", "price_in", "price_out", "max_cost"},
        }
        mine, theirs = (flatten(c.model_dump(exclude=free)) for c in (self, other))
        return [
            f"{key}: {mine.get(key)!r} -> {theirs.get(key)!r}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one: "train.rank" for `rank` in the table `train`."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _nest(flat: Mapping[str, Any], source: str) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        table = nested
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise UsageError(
                    f"config key {shown(section)}{source} must be a table, not {shown(table)}"
                )
        table[leaf] = value
    return nested


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: it isn't there, isn't text, or isn't TOML; the message has line and column.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
        flatten(tables)  # here, where a nesting that is too deep has a message
        return tables
    except OSError as error:
        raise UsageError(f"can't read config {path}: {error.strerror}; check the path") from error
    except ValueError as error:
        raise UsageError(f"config {path} isn't valid TOML: {shown_text(str(error))}") from error
    except RecursionError as error:
        raise UsageError(
            f"config {path} nests its tables too deeply; two levels are used"
        ) from error


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Resolve defaults < TOML at `path` < `overrides` (dotted keys, e.g. "generation.batch").

    A `property` that is a string names a built-in one.

    Raises:
        UsageError: an unknown key or a value outside its limits; each is named.
    """
    tables = flatten(read_toml(path)) if path else {}
    # --property replaces the whole table, so that no field of another property stays behind.
    overrides = overrides or {}
    if "property" in overrides:
        tables = {k: v for k, v in tables.items() if not k.startswith("property.")}
    tables = tables | dict(overrides)
    if isinstance(tables.get("property"), str):
        chosen = find_property(tables.pop("property")).model_dump()
        tables = {f"property.{k}": v for k, v in chosen.items()} | tables
    elif any(key.startswith("property.") for key in tables) and "property.name" not in tables:
        chosen = find_property("melting_point").model_dump()
        tables = {f"property.{k}": v for k, v in chosen.items()} | tables
    return _validate(tables, path)


def override(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """Return a configuration with some values (dotted keys) changed.

    Raises:
        UsageError: a value outside its limits.
    """
    return _validate(flatten(config.model_dump(exclude_none=True)) | dict(overrides), None)


def _validate(tables: Mapping[str, Any], path: Path | None) -> RunConfig:
    source = f" in {path}" if path else ""
    try:
        config = RunConfig.model_validate(_nest(tables, source))
    except ValidationError as error:
        raise UsageError(_explain(error, path)) from error
    for key, value in flatten(config.model_dump()).items():
        if isinstance(value, int) and value >= 2**63:  # TOML's integers end there; none is below 0
            raise UsageError(
                f"invalid configuration{source}: {key}: {shown(value)} has over 64 bits"
            )
    return config


_MOST_EXPLAINED = 5


def _explain(error: ValidationError, path: Path | None) -> str:
    known = flatten(RunConfig().model_dump())
    lines, problems = [], error.errors()
    for item in problems[:_MOST_EXPLAINED]:
        key = ".".join(str(part) for part in item["loc"]) or "config"
        if item["type"] == "extra_forbidden":
            lines.append(f"{shown_text(key)}: unknown key{_suggestion(key, known)}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            value = "" if isinstance(item["input"], dict) else f" (got {shown(item['input'])})"
            lines.append(f"{shown_text(key)}: {message}{value}")
    if len(problems) > _MOST_EXPLAINED:
        lines.append(f"and {len(problems) - _MOST_EXPLAINED} more")
    if any(line.endswith(": unknown key") for line in lines):
        lines.append("known keys: " + ", ".join(sorted(known)))
    source = f" in {path}" if path else ""
    return f"invalid configuration{source}: " + "; ".join(lines)


def _suggestion(key: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(key, known, n=1)
    return f", did you mean {near[0]}?" if near else ""
