"""What all entries of the catalogue share: strictness, and the kinds of values that fields have."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,64}$")]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]
Words = Annotated[str, StringConstraints(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
# What evaluate_on calls the mixture's own test split.
TEST = "test"
# What a mixture calls the labels that the recipe's own generator makes.
ANNOTATION = "annotation"
# What DuckDB holds as a number of pairs, far above all that there are.
NumPairs = Annotated[int, Field(ge=1, le=1_000_000_000)]


def between(low: float, high: float) -> AfterValidator:
    """Return a check whose message states both ends of the range, which belong to it."""

    def check(value: float) -> float:
        if not low <= value <= high:
            raise ValueError(f"must lie between {low} and {high}, not {value}")
        return value

    return AfterValidator(check)


class Entry(BaseModel):
    """Base of all catalogue entries: unknown keys are refused, values never change after loading.

    Types are strict: ``batch_size: true`` or ``"16"`` is an error, not 1 or 16; a whole number may stand for a float.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def refuse_repeats(names: list[str]) -> None:
    """Raise ValueError, with the names, where a name is listed twice."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} is listed twice; list each name once")
