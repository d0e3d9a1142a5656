"""Raw data sets, the pair sets made of them, and benchmarks."""

from typing import Any, Literal

from pydantic import GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rm_workflow.catalog.models.entry import (
    Entry,
    Language,
    Name,
    Positive,
    Share,
    Words,
    add_short_forms,
    refuse_repeats,
)

# The rule of solutions that a model chooses among (rm_workflow/evaluation/benchmarks/best_of_n.py).
BEST_OF_N = "best_of_n"


class Location(Entry):
    """Where files come from: a hub repository or a local path.

    Attributes:
        hub: ``org/name`` of a dataset repository on the Hugging Face hub (or in the mirror folder).
        path: a folder, ``samples:<name>`` for the embedded sample, or ``rows:<name>`` for rows that no hub has.
        files: split name -> file names relative to the repository or folder, in reading order.
    """

    hub: str | None = None
    path: str | None = None
    files: dict[Name, list[str]]

    @model_validator(mode="after")
    def _one_place(self) -> "Location":
        if (self.hub is None) == (self.path is None):
            raise ValueError("name exactly one of 'hub' (org/name) and 'path' (a folder or samples:<name>)")
        if not any(self.files.values()):
            raise ValueError(
                "'files' names no file; list at least one under a split, for instance train: [train.jsonl]"
            )
        return self


class Lookup(Entry):
    """Where columns that rows only name by a key are found; the files are held in memory.

    Attributes:
        split: the split of ``files`` whose files are looked up and hold no rows of their own.
        key: the column that rows and looked-up files share.
    """

    split: Name
    key: str


class Source(Location):
    """A raw data set.

    Attributes:
        adapter: name of the schema reader in ``rm_workflow.preferences.adapters``.
        columns: the adapter's own field -> column name in the file, for the generic adapters.
        group_column: column whose value must stay on one side of a split; None takes the first user turn.
        prompt_form: how a prompt that is one text is written: ``plain`` (one user turn), ``extra_id`` (HelpSteer2's
            ``<extra_id_1>`` marks between turns) or ``transcript`` (Nectar's and HH's ``\\n\\nHuman:`` before turns).
        lookup: a second file with the columns that the rows name by a key, as the texts of the pairs that votes are on.
        winner: for adapters that read a label: side (``a``, ``b``, ``tie``) -> the labels that mean it.
        solution_starts: for adapters of worked solutions whose question and solution are one text: the words with
            which the solution begins, one white space character after the question.
        step_separator: for adapters of worked solutions: what stands between two steps, which an adapter cuts a text at
            or joins steps by.
        neutral: for adapters of rated steps: what becomes of the rating 0 between wrong (-1) and right (1).
        licence: of the rows, by its SPDX name where it has one; what ``licences.py`` does not know is unclear.
        attribution: whom to name.
        test_problems: which test problems of known benchmarks are among its rows, in words; told wherever a mixture of
            it is judged, also where no list of those problems is at hand to compare with.
        max_broken_share: broken lines above this share of a file are fatal.
        generators: whose models wrote the responses (names of ``licences.GENERATORS``), [] where no terms reach them,
            None where the source does not say.
        languages: ISO 639-1 codes of the languages of its texts, [] where the source does not say.
        description: one line for people.
        published_rows: rows by split as the publisher states them; never checked, only shown.
        proven_on_real_rows: whether real rows of its own schema went through its adapter in the tests.
    """

    adapter: Name
    columns: dict[Name, str] = {}
    group_column: str | None = None
    prompt_form: Literal["plain", "extra_id", "transcript"] = "plain"
    lookup: Lookup | None = None
    winner: dict[Literal["a", "b", "tie"], list[bool | int | float | str]] = {}
    solution_starts: Words | None = None
    step_separator: Words | None = None
    neutral: Literal["keep", "positive", "negative", "unlabelled"] = "keep"
    test_problems: str = ""
    licence: str
    attribution: str = ""
    generators: list[Name] | None = None
    languages: list[Language] = []
    description: str = ""
    max_broken_share: Share = 0.01
    published_rows: dict[Name, int] = {}
    proven_on_real_rows: bool = False

    @model_validator(mode="after")
    def _rows_beside_lookup(self) -> "Source":
        if self.lookup is None:
            return self
        if not self.files.get(self.lookup.split):
            raise ValueError(f"'lookup' names the split '{self.lookup.split}', and 'files' has no file under it")
        if not any(files for split, files in self.files.items() if split != self.lookup.split):
            raise ValueError(f"all 'files' are looked up ('{self.lookup.split}'); list the rows under another split")
        return self


class RuleUse(Entry):
    """One rule of a pair set with its parameters: ``- equal_score``, or ``- score_ratio: {min: 2}``.

    Attributes:
        name: of the rule.
        parameters: of the rule.
    """

    name: Name
    parameters: dict[str, Any] = {}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Tell editors the short forms too."""
        found = super().__get_pydantic_json_schema__(schema, handler)
        add_short_forms(handler.resolve_ref_schema(found), {"type": ["object", "null"]})
        return found


class PairSet(Entry):
    """One source put through an ordered list of rules.

    Attributes:
        source: name of the source.
        candidates: ``given`` (slots chosen and rejected of one row), ``voted`` (the same, where rows on the same two
            responses in one file are votes that are summed), ``rated`` (all C(k,2) of a row's responses),
            ``rated_prompt`` (all C(k,2) of a prompt's responses in one file, whose rows are single responses) or
            ``labelled`` (all C(k,2) of a row's responses, each pair by its own label).
        pairing: of rated responses, ``all`` C(k,2) pairs, or ``best_vs_worst`` of each list.
        score: attributes of ``ratings`` whose mean is a response's score; empty for given pairs without ratings.
        rules: in the order in which they apply.
        published: pairs that the publisher of the recipe reports; shown beside ours, never tuned to.
        published_note: why the two may differ.
        description: one line for people.
    """

    source: Name
    candidates: Literal["given", "voted", "rated", "rated_prompt", "labelled"]
    pairing: Literal["all", "best_vs_worst"] = "all"
    score: list[str] = []
    rules: list[RuleUse]
    published: int | None = None
    published_note: str = ""
    description: str = ""

    @model_validator(mode="after")
    def _pairing_of_lists(self) -> "PairSet":
        if self.candidates not in ("rated", "rated_prompt") and self.pairing != "all":
            raise ValueError(
                f"pairing {self.pairing} chooses among rated responses, and candidates are '{self.candidates}'; "
                "leave pairing out, or set candidates to rated or rated_prompt"
            )
        return self

    @field_validator("score")
    @classmethod
    def _no_repeated_rating(cls, names: list[str]) -> list[str]:
        refuse_repeats(names)
        return names

    @field_validator("rules", mode="before")
    @classmethod
    def _short_forms(cls, rules: Any) -> Any:
        """Accept ``- equal_score`` and ``- score_ratio: {min: 2}`` beside the long form."""
        if not isinstance(rules, list):
            return rules
        return [_long_rule(rule) for rule in rules]


def _long_rule(rule: Any) -> Any:
    if isinstance(rule, str):
        return {"name": rule}
    if isinstance(rule, dict) and len(rule) == 1 and "name" not in rule:
        name, parameters = next(iter(rule.items()))
        return {"name": name, "parameters": parameters or {}}
    return rule


class Split(Entry):
    """How a mixture is split.

    Attributes:
        by: ``native`` keeps the source's own test files as test; ``hash`` takes a share of the groups.
        test_share: share of groups that become test, for ``hash``.
        seed: part of the key that is hashed, for ``hash``.
    """

    by: Literal["native", "hash"]
    test_share: Share = 0.1
    seed: int = 0


class Benchmark(Location):
    """An evaluation set with its own exact scoring rule.

    Attributes:
        scoring: name of the rule in ``rm_workflow.evaluation.benchmarks`` (``rewardbench``, ``rewardbench2``, ...).
        step_separator: for rules of worked solutions: what stands between two steps, as in a source.
        only_test_of: of problems that a recipe trains on too, only those are kept that its split puts into test; the
            same ``split`` as in the recipe's mixture, by hash.
        max_problems: of candidates to choose among (scoring ``best_of_n``): at most so many problems, the first ones by
            a hash; null takes all.
        max_candidates: the same: at most so many candidates of each problem, the first ones by a hash; null takes all.
        licence: of the items.
        description: one line for people.
    """

    scoring: Name
    step_separator: Words | None = None
    only_test_of: Split | None = None
    max_problems: Positive | None = None
    max_candidates: Positive | None = None
    licence: str
    description: str = ""

    @model_validator(mode="after")
    def _capped_candidates(self) -> "Benchmark":
        for field in ("max_problems", "max_candidates"):
            if getattr(self, field) is not None and self.scoring != BEST_OF_N:
                raise ValueError(
                    f"'{field}' is for candidates to choose among (scoring {BEST_OF_N}), and the items of "
                    f"{self.scoring} are published as a whole; take it out"
                )
        return self

    @model_validator(mode="after")
    def _test_by_hash(self) -> "Benchmark":
        if self.only_test_of and self.only_test_of.by != "hash":
            raise ValueError("'only_test_of' needs by: hash, with the test_share and seed of the recipe's split")
        return self
