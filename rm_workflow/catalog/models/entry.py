"""What all entries of the catalogue share: strictness, the kinds of values that fields have, what they tell editors."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, StringConstraints
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

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
# The section of a docstring that tells a type's fields; the first line of one field, and what follows it.
ATTRIBUTES = "Attributes:\n"
ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Between:
    """A check of a number whose message states both ends of the range, which belong to it."""

    low: float
    high: float

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check after the type."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Tell editors the range."""
        return {**handler(schema), "minimum": self.low, "maximum": self.high}

    def _check(self, value: float) -> float:
        if not self.low <= value <= self.high:
            raise ValueError(f"must lie between {self.low} and {self.high}, not {value}")
        return value


class Entry(BaseModel):
    """Base of all catalogue entries: unknown keys are refused, values never change after loading.

    Types are strict: ``batch_size: true`` or ``"16"`` is an error, not 1 or 16; a whole number may stand for a float.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the type and its fields by their docstrings."""
        found = handler(schema)
        described = handler.resolve_ref_schema(found)
        described["description"] = told(cls)
        for name, text in field_descriptions(cls).items():
            described["properties"][name]["description"] = text
        return found


def told(model: type[BaseModel]) -> str:
    """Return the docstring of a type without the section on its fields."""
    return _plain(inspect.cleandoc(model.__doc__ or "").partition(ATTRIBUTES)[0])


def field_descriptions(model: type[BaseModel]) -> Mapping[str, str]:
    """Return field -> what the docstring of the type, or of the one that it inherits from, says of it."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        section = inspect.cleandoc(parent.__doc__ or "").partition(ATTRIBUTES)[2]
        found.update({name: _plain(text) for name, text in ATTRIBUTE.findall(section)})
    return {name: found[name] for name in model.model_fields if name in found}


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def add_short_forms(long: JsonSchemaValue, behind: JsonSchemaValue) -> None:
    """Let a type that has a name be written as the name alone too, or as the name with what stands ``behind`` it."""
    short = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": behind}
    forms = [long["properties"]["name"], short, dict(long)]
    description = long["description"]
    long.clear()
    long.update(description=description, anyOf=forms)


def refuse_repeats(names: list[str]) -> None:
    """Raise ValueError, with the names, where a name is listed twice."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} is listed twice; list each name once")
