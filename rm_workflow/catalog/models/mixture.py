"""What a recipe trains on: pair sets or labelled responses joined, split and decontaminated."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rm_workflow.catalog.models.data import Split
from rm_workflow.catalog.models.entry import Between, Entry, Name, NumPairs, Positive, add_short_forms, refuse_repeats


class Sample(Entry):
    """The row cap of a mini recipe: train rows only, chosen by a keyed hash of their content.

    Attributes:
        train_pairs: so many train pairs at most, for a mixture of pairs.
        train_prompts: so many train prompts at most, each with all its responses, for a mixture of responses or
            trajectories.
        seed: of the choice.
    """

    train_pairs: NumPairs | None = None
    train_prompts: NumPairs | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _one_amount(self) -> "Sample":
        if (self.train_pairs is None) == (self.train_prompts is None):
            raise ValueError(
                "name exactly one of 'train_pairs' and 'train_prompts' (for a mixture of responses or trajectories)"
            )
        return self


class Use(Entry):
    """A part of a mixture, named in a list: ``- name``, or ``- name: {count: 2000}``."""

    @model_serializer(mode="wrap")
    def _short_form(self, whole: SerializerFunctionWrapHandler) -> Any:
        """Return the form that people write: the name, with what differs from the defaults where something does."""
        values = whole(self)
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        changed = {name: value for name, value in values.items() if value != defaults[name]}
        name = changed.pop("name")
        return {name: changed} if changed else name

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Tell editors the short forms too."""
        found = super().__get_pydantic_json_schema__(schema, handler)
        long = handler.resolve_ref_schema(found)
        fields = {name: field for name, field in long["properties"].items() if name != "name"}
        add_short_forms(long, {"type": "object", "properties": fields, "additionalProperties": False})
        return found


class PairSetUse(Use):
    """A pair set's part in a mixture; all but the name is about its train pairs, after the mixture's other rules.

    Attributes:
        name: of the pair set.
        count: so many pairs of it at most, chosen by a keyed hash of the pair's content.
        fraction: this share of it, rounded up, chosen in the same way.
        seed: of the choice.
        repeat: how often each pair is seen in an epoch.
        loss_weight: what each pair counts for in the loss, against 1 of a pair without it.
    """

    name: Name
    count: NumPairs | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int = 0
    repeat: Annotated[int, Field(ge=1, le=1000)] = 1
    loss_weight: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _one_amount(self) -> "PairSetUse":
        if self.count is not None and self.fraction is not None:
            raise ValueError("count and fraction both say how much of it is taken; write one of them")
        return self


class ResponseUse(Use):
    """A source's labelled responses in a mixture of kind ``responses``.

    Attributes:
        name: of the source.
        ratings: attributes that count; a response's score is the mean of those that it has. Empty takes the outcome
            label (right 1, wrong 0) instead.
        ranked: drops the responses of a prompt whose responses all have one score, which is no ranking
            (``equal_score``).
        repeat: how often each train response is seen in an epoch.
        loss_weight: what each counts for in the loss, against 1 of a response without it.
    """

    name: Name
    ratings: list[str] = []
    ranked: bool = False
    repeat: Positive = 1
    loss_weight: Annotated[float, Field(gt=0)] = 1.0

    @field_validator("ratings")
    @classmethod
    def _no_repeated_rating(cls, names: list[str]) -> list[str]:
        refuse_repeats(names)
        return names


class TrajectoryUse(Use):
    """A source's solutions with step labels in a mixture of kind ``trajectories``.

    Attributes:
        name: of the source.
        labels: ``hard`` (a step is right, 1, or wrong, 0) or ``soft`` (the share of its completions that are right).
            Hard takes the source's hard labels; where it has none, its ratings; where it has neither, 1 for every
            soft label above 0, as Math-Shepherd's hard estimation does (arXiv 2312.08935).
        neutral: what becomes of a step that people rated neutral (0, between wrong -1 and right 1): ``drop_step``
            takes its label away, ``positive`` and ``negative`` count it as right or wrong. A source with such ratings
            needs it.
        repeat: how often each train solution is seen in an epoch.
        loss_weight: what each counts for in the loss, against 1 of a solution without it.
    """

    name: Name
    labels: Literal["hard", "soft"] = "hard"
    neutral: Literal["drop_step", "positive", "negative"] | None = None
    repeat: Positive = 1
    loss_weight: Annotated[float, Field(gt=0)] = 1.0


LeakPolicy = Literal["drop", "mark"]
MixtureKind = Literal["pairs", "responses", "trajectories"]
# Kind -> the field of a mixture that names its parts.
PARTS: dict[MixtureKind, str] = {"pairs": "pair_sets", "responses": "responses", "trajectories": "trajectories"}


class NearDuplicate(Entry):
    """Near duplicates of benchmark prompts, found by MinHash over the sets of words and then compared exactly.

    Attributes:
        threshold: least Jaccard similarity of the two sets of words.
        permutations: length of the MinHash signature; more find more pairs close to the threshold and take longer.
    """

    threshold: Annotated[float, Between(0.5, 1)] = 0.7
    permutations: Annotated[int, Between(16, 1024)] = 128


class Guard(Entry):
    """When a text of the mixture counts as a text of a benchmark (``rm_workflow/preferences/decontamination``).

    Attributes:
        ngram_words: words of an n-gram (13 as in GPT-3, arXiv 2005.14165).
        min_words: a benchmark prompt of fewer words must be repeated exactly.
        prompt_share: least share of a benchmark prompt's words that shared n-grams cover.
        max_difference: how much of the shorter prompt may differ; rare words weigh more, boilerplate nothing. One
            changed word is always allowed where it weighs at most half of the prompt.
        min_response_words: shorter responses are not compared.
        response_share: least share of a benchmark response's words that shared n-grams cover.
        near_duplicate: null switches the search for near duplicates off.
        boilerplate_texts: an n-gram in at least so many prompts of the mixture is boilerplate and tells nothing.
        boilerplate_items: an n-gram in at least so many prompts of one benchmark is boilerplate too.
        boilerplate_files: text files, one boilerplate text a line, beside the list that comes with the package.
    """

    ngram_words: Annotated[int, Between(5, 50)] = 13
    min_words: Annotated[int, Between(5, 1000)] = 20
    prompt_share: Annotated[float, Between(0.1, 1)] = 0.4
    max_difference: Annotated[float, Between(0, 0.5)] = 0.05
    min_response_words: Annotated[int, Between(5, 10_000)] = 30
    response_share: Annotated[float, Between(0.1, 1)] = 0.5
    near_duplicate: NearDuplicate | None = NearDuplicate()
    boilerplate_texts: Annotated[int, Between(2, 1_000_000)] = 50
    boilerplate_items: Annotated[int, Between(2, 1_000_000)] = 5
    boilerplate_files: list[str] = []

    @model_validator(mode="after")
    def _ngrams_fit(self) -> "Guard":
        for field in ("min_words", "min_response_words"):
            if getattr(self, field) < self.ngram_words:
                raise ValueError(
                    f"{field} is {getattr(self, field)} and ngram_words {self.ngram_words}; a text must hold at least "
                    f"one n-gram, so raise {field} or lower ngram_words"
                )
        return self


class Mixture(Entry):
    """Pair sets, or the labelled responses of sources, joined, split and decontaminated.

    Attributes:
        kind: ``pairs`` of pair sets, ``responses`` with their ratings or outcome labels, or ``trajectories``: solutions
            with step labels.
        pair_sets: in order of precedence: a duplicate across sources is kept by the first. Each is a name, or
            ``name: {count: 2000}`` with the fields of ``PairSetUse``.
        responses: sources of a mixture of responses, in order of precedence: ``name: {ratings: [helpfulness]}`` with
            the fields of ``ResponseUse``.
        trajectories: sources of a mixture of trajectories, in order of precedence, with the fields of
            ``TrajectoryUse``.
        split: how it is cut into train and test.
        decontaminate_against: benchmarks whose prompts and responses must not be trained on.
        decontaminate_files: text files whose prompts must not be trained on: ``.txt`` (one a line) or ``.jsonl``
            (``text`` or ``prompt``); relative to the recipe's file, or with --set to the current folder.
        leak_policy: ``drop`` removes a train pair that asks a benchmark's prompt, ``mark`` keeps and counts it.
        response_leak_policy: ``drop`` or ``mark`` a train pair with a response of a benchmark.
        guard: what counts as the same text.
        sample: takes so many train pairs, or prompts, at most; null takes all.
        weight_per_prompt: divides a train pair's weight by the number of train pairs of its prompt in the mixture (or
            a response's by that of the responses).
    """

    kind: MixtureKind = "pairs"
    pair_sets: list[PairSetUse] = []
    responses: list[ResponseUse] = []
    trajectories: list[TrajectoryUse] = []
    split: Split
    decontaminate_against: list[Name] = []
    decontaminate_files: list[str] = []
    leak_policy: LeakPolicy = "drop"
    response_leak_policy: LeakPolicy = "mark"
    guard: Guard = Guard()
    sample: Sample | None = None
    weight_per_prompt: bool = False

    @property
    def pair_set_names(self) -> list[str]:
        """Return the names of the pair sets, in order of precedence."""
        return [use.name for use in self.pair_sets]

    @property
    def labelled_sources(self) -> list[str]:
        """Return the names of the sources of a mixture of responses or trajectories, in order of precedence."""
        return [*(use.name for use in self.responses), *(use.name for use in self.trajectories)]

    @property
    def attributes(self) -> list[str]:
        """Return the names of all ratings of a mixture of responses, in the order of the alphabet."""
        return sorted({rating for use in self.responses for rating in use.ratings})

    @field_validator(*PARTS.values(), mode="before")
    @classmethod
    def _short_forms(cls, uses: Any) -> Any:
        """Accept ``- name`` and ``- name: {count: 2000}`` beside the long form."""
        return [_long_use(use) for use in uses] if isinstance(uses, list) else uses

    @field_validator(*PARTS.values())
    @classmethod
    def _no_repeated_part(cls, uses: list[Any]) -> list[Any]:
        refuse_repeats([use.name for use in uses])
        return uses

    @model_validator(mode="after")
    def _parts_of_the_kind(self) -> "Mixture":
        wanted = PARTS[self.kind]
        if not getattr(self, wanted):
            raise ValueError(
                f"'{wanted}' names nothing, and a mixture of kind {self.kind} is made of it; list at least one"
            )
        for other in PARTS.values():
            if other != wanted and getattr(self, other):
                raise ValueError(
                    f"'{other}' is no part of a mixture of kind {self.kind}; take it out (null in a child recipe)"
                )
        amount = "train_pairs" if self.kind == "pairs" else "train_prompts"
        if self.sample and getattr(self.sample, amount) is None:
            raise ValueError(
                f"'sample' of a mixture of kind {self.kind} counts {amount}; set sample: {{{amount}: ...}}"
            )
        return self

    @field_validator("decontaminate_against")
    @classmethod
    def _no_repeated_benchmark(cls, names: list[str]) -> list[str]:
        refuse_repeats(names)
        return names

    @field_validator("decontaminate_files")
    @classmethod
    def _readable_and_told_apart(cls, files: list[str]) -> list[str]:
        names = [file.replace("\\", "/").rsplit("/", 1)[-1] for file in files]
        for name in names:
            if not name.endswith((".txt", ".jsonl")):
                raise ValueError(f"{name} is neither a .txt nor a .jsonl file; convert or rename it")
            if names.count(name) > 1:
                raise ValueError(f"two files are called {name}; rename one, for hits are told by the file's name")
        return files


def _long_use(use: Any) -> Any:
    if not isinstance(use, dict):
        return {"name": use}
    if len(use) == 1 and "name" not in use:
        name, fields = next(iter(use.items()))
        if not isinstance(fields, dict):
            raise ValueError(f"write how much of {name} is taken by name, for instance {name}: {{count: 2000}}")
        if "name" in fields:
            raise ValueError(f"{name} has its name before the colon already; take out `name`")
        return {"name": name, **fields}
    return use
