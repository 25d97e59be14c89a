"""What all sections of the configuration have in common."""

import re

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the configuration: its fields' docstrings are the texts that the commands show."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def matching(pattern: str, words: str) -> AfterValidator:
    """Return a check that a pattern takes all of a text; `words` say what it is to be otherwise."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(words)
        return text

    return AfterValidator(check)
