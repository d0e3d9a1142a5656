"""Rules that keep or drop candidates: one small file each, put in order here.

A rule file ``rules/<name>.py`` holds

- ``Parameters``: what a pair set may set, with ranges;
- ``sql(parameters)``: a query over the table ``candidates`` that selects ``pair_id, reason, detail`` of what to drop;
- ``NEEDS_SCORES``: whether it judges the scores of a pair;
- ``NEEDS_EXTRA``, if any: names of columns that the source must carry along (``columns: {extra_<name>: <column>}``);
- ``prepare(con, parameters)``, if any: called just before the query, for what SQL alone cannot do; it leaves temporary
  tables that the query reads;
- ``marks(parameters)``, if any: whether what the query selects stays and is marked, where other rules drop it.

``candidates`` holds what the rules before have left: pair_id, pair_key, n (0-based occurrence of the pair_key in the
source), prompt_id, chosen_id, rejected_id, chosen_score, rejected_score (doubles), the same scores exactly as
chosen_sum / chosen_count and rejected_sum / rejected_count (decimals), source, file, row, slots, extra (JSON of the
columns carried along with the chosen response).

A rule that judges text reads the source's views ``prompts`` (prompt_id, messages) and ``responses`` (response_id,
prompt_id, text). It brings each text down to a number or a verdict first and joins only that to ``candidates``: text is
large, and never carried through a window or a sort.

A new rule is a new file, and its place in the order below.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb
from pydantic import BaseModel, ConfigDict, ValidationError

from rm_workflow.catalog.models import PairSet, RuleUse
from rm_workflow.catalog.names import nearest
from rm_workflow.errors import UserError

# What a source says about its own pairs. These stand first, among themselves in the order of the pair set.
SOURCE_RULES = ("rating", "score_ratio", "score_gap", "status", "in_gsm8k_train", "refusal")
# The order of all rules.
ORDER = (
    *SOURCE_RULES,
    *("equal_score", "identical_responses", "exact_duplicate", "near_duplicate", "contradictory", "cycle", "length"),
    "cap",
)


class RuleParameters(BaseModel):
    """Base of all parameters; each field's description states its allowed range."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class BoundRule:
    """A rule with the parameters of one pair set.

    Attributes:
        sql: selects ``pair_id, reason, detail`` of what it drops or marks.
        needs_extra: columns that the source must carry along.
        prepare: makes the tables that ``sql`` reads beside the candidates, if it reads any.
        marks: what ``sql`` selects stays, with the rule's name in the column ``marks``.
    """

    name: str
    sql: str
    needs_extra: tuple[str, ...] = ()
    prepare: Callable[[duckdb.DuckDBPyConnection], None] | None = None
    marks: bool = False


def built() -> list[str]:
    """Return the names of the rules that have a file, in order."""
    files = {module.name for module in pkgutil.iter_modules(__path__)}
    return [name for name in ORDER if name in files]


def parameter_types() -> dict[str, tuple[str, type[RuleParameters]]]:
    """Return each rule -> what it does, in a sentence, and the type of its parameters."""
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in built()}
    return {name: ((module.__doc__ or "").partition("\n")[0], module.Parameters) for name, module in modules.items()}


def bind_rules(name: str, pair_set: PairSet) -> list[BoundRule]:
    """Return the rules of a pair set, ready to run.

    Raises:
        UserError: unknown rule, wrong parameter, wrong order, or a rule on scores where the pair set names none.
    """
    title = f"pair set '{name}'"
    for use in pair_set.rules:
        _check_known(title, use.name)
    _check_order(title, [use.name for use in pair_set.rules])
    return [_bind(title, use, bool(pair_set.score)) for use in pair_set.rules]


def _check_known(title: str, rule: str) -> None:
    names = built()
    if rule not in names:
        raise UserError(f"{title}: there is no rule '{rule}' ({nearest(rule, names)})")


def _check_order(title: str, names: Sequence[str]) -> None:
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if repeated:
        raise UserError(f"{title}: rule '{repeated[0]}' is listed twice; list each rule once")
    ordered = sorted(names, key=_place)
    if ordered != list(names):
        raise UserError(f"{title}: rules stand in the wrong order; write them as [{', '.join(ordered)}]")


def _place(rule: str) -> int:
    return 0 if rule in SOURCE_RULES else ORDER.index(rule)


def _bind(title: str, use: RuleUse, has_scores: bool) -> BoundRule:
    module = importlib.import_module(f"{__name__}.{use.name}")
    if module.NEEDS_SCORES and not has_scores:
        raise UserError(
            f"{title}: rule '{use.name}' judges scores, and the pair set names none; "
            "set 'score' to a list of ratings, for instance score: [helpfulness]",
            place=(use.name,),
        )
    parameters = _parameters(title, module.Parameters, use)
    prepare = getattr(module, "prepare", None)
    marks = getattr(module, "marks", None)
    return BoundRule(
        use.name,
        module.sql(parameters),
        getattr(module, "NEEDS_EXTRA", ()),
        partial(prepare, parameters=parameters) if prepare else None,
        bool(marks and marks(parameters)),
    )


def _parameters(title: str, model: type[RuleParameters], use: RuleUse) -> RuleParameters:
    try:
        return model.model_validate(use.parameters)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        allowed = "; ".join(f"{field} is {info.description}" for field, info in model.model_fields.items())
        raise UserError(
            f"{title}: rule '{use.name}': {_sentence(problem)} ({allowed or 'it takes no parameters'})",
            place=(use.name, *map(str, problem["loc"])),
        ) from None


def _sentence(problem: Any) -> str:
    where = ".".join(map(str, problem["loc"])) or "parameters"
    if problem["type"] == "missing":
        return f"parameter '{where}' is missing"
    if problem["type"] == "extra_forbidden":
        return f"there is no parameter '{where}'"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return f"{where} is {problem['input']!r}, out of its range"
