"""Settings of what a run starts from: its table, its base model, its exemplars."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfstudy_engine.data.config_section import Section, matching


class TableConfig(Section):
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
    """What to do with salts and mixtures; strip keeps the largest organic part, uncharged, and no
    common counter-ion or solvent where there is another."""
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


class ModelConfig(Section):
    """The base model."""

    path: str | None = None
    """Hub id or folder of the base model [default: the embedded SmolLM2-135M-Instruct]."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights; auto is bfloat16 where the hardware has it, else float32."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository brings along."""


_NO_URL = "a teacher's URL begins with http:// or https://, such as https://api.openai.com/v1"


class TeacherConfig(Section):
    """Where exemplars come from."""

    exemplars: str | None = None
    """JSONL file of exemplars (name, smiles, value, reason) [default: the ten shipped ones]."""
    url: Annotated[str, matching(r"(?s)https?://.*", _NO_URL)] | None = None
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
