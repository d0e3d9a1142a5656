"""Scores that others have published, as data: ``published_scores.yaml``, each figure with its source."""

from functools import cache
from pathlib import Path

from pydantic import Field, model_validator

from rm_workflow.catalog.models import Entry, Name, Words
from rm_workflow.catalog.typed import typed
from rm_workflow.catalog.yaml_file import read_yaml

FILE = Path(__file__).parent / "published_scores.yaml"
BEST_OF_N_FILE = Path(__file__).parent / "published_best_of_n.yaml"


class PublishedScore(Entry):
    """One checkpoint on one benchmark, as its publisher printed it. All figures are percent; ``score`` is a fraction.

    Attributes:
        checkpoint: ``org/name@revision`` on the Hugging Face hub.
        benchmark: the rule of ``rm_workflow.evaluation.benchmarks``.
        overall: the publisher's overall where its rule is that of our headline, else None.
        other_overalls: overalls by another rule, under the name that the figure has in our result.
        subsets: the parts whose plain mean the headline is.
        others: parts that are printed beside them.
        source: where it was printed.
        note: what a reader must know before comparing.
    """

    checkpoint: Words
    benchmark: Name
    overall: float | None = None
    other_overalls: dict[str, float] = Field(default_factory=dict)
    subsets: dict[str, float]
    others: dict[str, float] = Field(default_factory=dict)
    source: Words
    note: str = ""

    @model_validator(mode="after")
    def _has_parts(self) -> "PublishedScore":
        if not self.subsets:
            raise ValueError("'subsets' names no part of the score; list at least one")
        return self

    @property
    def mean_of_subsets(self) -> float:
        """Return the plain mean of ``subsets``, in percent."""
        return sum(self.subsets.values()) / len(self.subsets)

    @property
    def score(self) -> float:
        """Return the fraction to set beside our headline: the publisher's own, else the mean of the printed parts."""
        return (self.mean_of_subsets if self.overall is None else self.overall) / 100

    @property
    def told_note(self) -> str:
        """Return the note with how ``score`` came about, where its publisher prints another figure."""
        if self.overall is not None:
            return self.note
        printed = [f"{name} {value}" for name, value in self.other_overalls.items()]
        made = "; ".join(["the score is our plain mean of the parts printed", *printed])
        return f"{made}; {self.note}" if self.note else made


@cache
def published_scores() -> tuple[PublishedScore, ...]:
    """Return all published scores in the order of the file.

    Raises:
        UserError: the file is wrong; names its line and key.
    """
    document = read_yaml(FILE)
    return tuple(typed(PublishedScore, document.entry(name), f"published score '{name}'") for name in document.data)


class PublishedBestOfN(Entry):
    """One method on one set of candidates, as its publisher printed it.

    Attributes:
        method: with the number of candidates, as ``ORM@1024``.
        verifier: the model that picks, None for methods without one.
        score: percent.
        source: where it was printed.
        note: what a reader must know before comparing.
    """

    method: Words
    verifier: str | None = None
    score: float
    source: Words = "RLHFlow, model card and repository"
    note: str = ""


class _PublishedSets(Entry):
    sets: dict[Name, list[PublishedBestOfN]]


@cache
def published_best_of_n() -> dict[str, list[PublishedBestOfN]]:
    """Return what was published of best-of-N, by the name of the set of candidates.

    Raises:
        UserError: the file is wrong; names its line and key.
    """
    return typed(_PublishedSets, read_yaml(BEST_OF_N_FILE), "published best-of-N").sets
