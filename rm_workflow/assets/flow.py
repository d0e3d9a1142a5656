"""The data flow: which asset is made from which, and what decides its content.

One place answers for Dagster's ``deps``, for content keys and for the command line. ``requested`` is the id of an
asset's parameters and of all parameters upstream; by it a consumer finds the artifact that answers this very recipe.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rm_workflow.artifacts import Artifact, ArtifactStore, ExternalFile, Request
from rm_workflow.catalog import licences, sweeps
from rm_workflow.catalog.models import (
    ANNOTATION,
    TEST,
    UNKEYED_TRAINING_FIELDS,
    Catalog,
    Mixture,
    Recipe,
    base_asset_name,
)
from rm_workflow.code_versions import CODE_VERSIONS
from rm_workflow.keys import content_id
from rm_workflow.models.readout import KINDS
from rm_workflow.reporting.evidence import about_recipe

UNKEYED_SOURCE_FIELDS = {
    *("hub", "path", "licence", "attribution", "generators", "description", "published_rows", "proven_on_real_rows"),
    *("languages", "test_problems"),
}


@dataclass(frozen=True)
class Planned:
    """One asset as a recipe asks for it.

    Attributes:
        name: entry of the catalogue or recipe that the asset stands for.
        parameters: what decides the content beside the inputs, as the catalogue states it.
        partition: key of the run of a sweep that it belongs to; None where there is no sweep, or several runs share it.
    """

    asset: str
    kind: str
    name: str
    parameters: Mapping[str, Any]
    upstream: tuple["Planned", ...] = ()
    partition: str | None = None

    @cached_property
    def requested(self) -> str:
        """Return the id of this asset's parameters and of all upstream ones."""
        upstream = sorted(planned.requested for planned in self.upstream)
        partition = {} if self.partition is None else {"partition": self.partition}
        return content_id({"asset": self.asset, "parameters": self.parameters, "upstream": upstream, **partition})

    def upstream_of_kind(self, kind: str) -> list["Planned"]:
        """Return the direct inputs of one kind, in the recipe's order."""
        return [planned for planned in self.upstream if planned.kind == kind]

    def lineage(self) -> Iterator["Planned"]:
        """Yield this asset and everything upstream, inputs first, each once."""
        yield from _each_once(found for planned in self.upstream for found in planned.lineage())
        yield self

    def request(
        self,
        inputs: tuple[Artifact, ...],
        overridden: bool,
        external_files: tuple[ExternalFile, ...] = (),
        resolved: Mapping[str, Any] | None = None,
    ) -> Request:
        """Return the request for the artifact store.

        Args:
            resolved: parameters that only the machine knows (device, precision).
        """
        return Request(
            asset=self.asset,
            kind=self.kind,
            code_version=CODE_VERSIONS[self.kind].version,
            parameters={**self.parameters, **(resolved or {})},
            inputs=inputs,
            external_files=external_files,
            partition=self.partition,
            requested=self.requested,
            overridden=overridden,
        )

    def inputs(self, store: ArtifactStore) -> dict[str, Artifact]:
        """Return the latest answers to the direct inputs, by asset name."""
        return {
            planned.asset: store.require(planned.asset, planned.requested, planned.partition)
            for planned in self.upstream
        }

    def latest(self, store: ArtifactStore) -> Artifact | None:
        """Return the latest answer to this very request, if there is one."""
        return store.latest(self.asset, self.requested, self.partition)


def _each_once(planned: Iterator[Planned]) -> Iterator[Planned]:
    """Yield the first of those that are the same asset of the same run."""
    seen: set[tuple[str, str | None]] = set()
    for found in planned:
        if (found.asset, found.partition) not in seen:
            seen.add((found.asset, found.partition))
            yield found


class Flow:
    """Plans assets from a catalogue."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def raw(self, source: str) -> Planned:
        """Plan ``raw_<source>``."""
        parameters = self.catalog.sources[source].model_dump(mode="json", exclude=UNKEYED_SOURCE_FIELDS)
        return Planned(f"raw_{source}", "raw", source, parameters)

    def pairs(self, pair_set: str) -> Planned:
        """Plan ``pairs_<set>``."""
        entry = self.catalog.pair_sets[pair_set]
        parameters = entry.model_dump(mode="json", exclude={"description", "published_note"})
        return Planned(f"pairs_{pair_set}", "pairs", pair_set, parameters, (self.raw(entry.source),))

    def benchmark(self, name: str) -> Planned:
        """Plan ``bench_<name>``."""
        keyed = {"files", "scoring", "step_separator", "only_test_of", "max_problems", "max_candidates"}
        # What is not set is left out, so that the keys of other benchmarks stay as they are.
        parameters = self.catalog.benchmarks[name].model_dump(mode="json", include=keyed, exclude_none=True)
        return Planned(f"bench_{name}", "benchmark", name, parameters)

    def base(self, base: str) -> Planned:
        """Plan ``base_<name>``."""
        return Planned(self._base_asset(base), "base", base, {"base": base})

    def bases(self) -> Iterator[str]:
        """Yield the base models and generators of all recipes, in the order of the recipes; some several times."""
        recipes = self.catalog.recipes.values()
        yield from (base for recipe in recipes for base in sweeps.bases_of(recipe))
        annotations = (recipe.annotation for recipe in recipes)
        yield from (one.generator for one in annotations if one and not one.endpoint)

    def _base_asset(self, base: str) -> str:
        """Return the asset's name; of several bases that would be called alike, all but the first are told apart."""
        name = base_asset_name(base)
        return name if self._named_first.get(name, base) == base else f"{name}_{content_id(base)[:6]}"

    @cached_property
    def _named_first(self) -> dict[str, str]:
        first: dict[str, str] = {}
        for base in self.bases():
            first.setdefault(base_asset_name(base), base)
        return first

    def rollouts(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_rollouts``; where an endpoint stands is no part of its key, that there is one is."""
        annotation = recipe.annotation
        assert annotation is not None, "only recipes with an annotation have rollouts"
        parameters = {
            **annotation.model_dump(mode="json", exclude={"endpoint"}),
            "generated_by": "endpoint" if annotation.endpoint else "transformers",
        }
        generators = () if annotation.endpoint else (self.base(annotation.generator),)
        upstream = (self.raw(annotation.problems), *generators)
        return Planned(f"{recipe.name}_rollouts", "rollouts", recipe.name, parameters, upstream)

    def step_labels(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_step_labels``."""
        rollouts = self.rollouts(recipe)
        return Planned(f"{recipe.name}_step_labels", "labels", recipe.name, {}, (rollouts, rollouts.upstream[0]))

    def _labelled(self, recipe: Recipe, source: str) -> Planned:
        """Plan where the labels of a source of a mixture stand."""
        return self.step_labels(recipe) if source == ANNOTATION else self.raw(source)

    def mixture(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_mixture``."""
        mixture = recipe.mixture
        upstream = (
            *map(self.pairs, mixture.pair_set_names),
            *(self._labelled(recipe, source) for source in mixture.labelled_sources),
            *map(self.benchmark, mixture.decontaminate_against),
        )
        return Planned(f"{recipe.data_name}_mixture", "mixture", recipe.name, _keyed(mixture), upstream)

    def overlap(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_overlap``."""
        names = dict.fromkeys([*recipe.mixture.decontaminate_against, *recipe.evaluation.evaluate_on])
        parameters = {"with_test": TEST in names}
        upstream = (self.mixture(recipe), *(self.benchmark(name) for name in names if name != TEST))
        return Planned(f"{recipe.data_name}_overlap", "overlap", recipe.name, parameters, upstream)

    def audit(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_audit``."""
        parameters = {"licences": licences.of_recipe(recipe, self.catalog)}
        return Planned(f"{recipe.data_name}_audit", "audit", recipe.name, parameters, (self.mixture(recipe),))

    def tokens(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_tokens``."""
        upstream = (self.mixture(recipe), self.base(recipe.base))
        # What a solution is read as depends on the objective.
        labels = {"labels_of": recipe.objective} if recipe.objective in KINDS else {}
        parameters = {**recipe.tokens.model_dump(mode="json"), **labels}
        return Planned(f"{recipe.tokens_name}_tokens", "tokens", recipe.name, parameters, upstream)

    def run_config(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_run_config``."""
        training = recipe.training.model_dump(mode="json", exclude=set(UNKEYED_TRAINING_FIELDS))
        parameters = {"objective": recipe.objective, "training": training}
        upstream = (self.tokens(recipe), self.base(recipe.base))
        return self._of_run(recipe, "run_config", parameters, upstream)

    def checkpoint(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_checkpoint``."""
        upstream = (self.run_config(recipe), self.tokens(recipe), self.base(recipe.base))
        return self._of_run(recipe, "checkpoint", {}, upstream)

    def scores(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_scores``."""
        benchmarks = (name for name in recipe.evaluation.evaluate_on if name != TEST)
        upstream = (
            *(self.checkpoint(recipe), self.tokens(recipe), self.overlap(recipe), self.mixture(recipe)),
            *map(self.benchmark, benchmarks),
        )
        parameters = recipe.evaluation.model_dump(mode="json")
        return self._of_run(recipe, "scores", parameters, upstream)

    def card(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_card``; what only the catalogue knows, licences first of all, is keyed too."""
        parameters = {"about": about_recipe(recipe, self.catalog)}
        upstream = (self.checkpoint(recipe), self.scores(recipe))
        return self._of_run(recipe, "card", parameters, upstream)

    def ranked(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_ranked``."""
        asked = recipe.rejection_sampling
        assert asked is not None, "only recipes with rejection sampling rank candidates"
        # Scores of one batch differ by rounding from those of another.
        scoring = {"batch_tokens": recipe.evaluation.batch_tokens}
        parameters = {**asked.model_dump(mode="json", exclude={"min_gap"}), **scoring}
        upstream = (self.checkpoint(recipe), self.raw(asked.candidates))
        return self._of_run(recipe, "ranked", parameters, upstream)

    def sft_dpo(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_sft_dpo``."""
        assert recipe.rejection_sampling is not None, "only recipes with rejection sampling choose replies"
        parameters = {"min_gap": recipe.rejection_sampling.min_gap}
        return self._of_run(recipe, "sft_dpo", parameters, (self.ranked(recipe),))

    def _of_run(
        self, recipe: Recipe, kind: str, parameters: Mapping[str, Any], upstream: tuple[Planned, ...]
    ) -> Planned:
        return Planned(f"{recipe.name}_{kind}", kind, recipe.name, parameters, upstream, recipe.partition)

    def best(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_best``: of every run whose scores there are, so that none is waited for."""
        assert recipe.promoting is not None, "only recipes with a main have a best checkpoint"
        parameters = {"promotion": recipe.promoting.model_dump(mode="json")}
        scores = tuple(self.scores(run) for run in sweeps.runs_of(recipe).values()) or (self.scores(recipe),)
        return Planned(f"{recipe.name}_best", "best", recipe.name, parameters, scores)

    def transfer(self, recipe: Recipe) -> Planned:
        """Plan ``<recipe>_transfer``: of every run whose scores there are, as ``<recipe>_best``."""
        assert recipe.sweep is not None, "only sweeps compare runs"
        assert recipe.sweep.transfer is not None, "only sweeps with a gold set have this asset"
        parameters = {
            "transfer": recipe.sweep.transfer.model_dump(mode="json"),
            "benchmarks": recipe.evaluation.evaluate_on,
        }
        scores = tuple(self.scores(run) for run in sweeps.runs_of(recipe).values())
        return Planned(f"{recipe.name}_transfer", "transfer", recipe.name, parameters, scores)

    def of_recipe(self, recipe: Recipe) -> list[Planned]:
        """Return every asset of a recipe, of all runs of a sweep, inputs first; last what nothing waits for."""
        runs = list(sweeps.runs_of(recipe).values()) or [recipe]
        promoted = [self.best(recipe)] if recipe.promoting and recipe.partition is None else []
        transfer = [self.transfer(recipe)] if recipe.sweep and recipe.sweep.transfer else []
        last = [self.card(run) for run in runs]
        if recipe.rejection_sampling:
            last += [self.sft_dpo(run) for run in runs]
        found = (planned for one in last for planned in one.lineage())
        audits = [self.audit(data) for data in sweeps.shared_data(recipe)] if recipe.partition is None else []
        return [*_each_once(found), *audits, *promoted, *transfer]

    def across_runs(self, recipe: Recipe, plan: Callable[[Recipe], Planned]) -> Planned:
        """Return an asset of all runs of a recipe as one, with every asset that one of them is made from."""
        runs = [plan(run) for run in sweeps.runs_with_own_tokens(recipe)]
        upstream = {one.asset: one for run in runs for one in run.upstream}
        return replace(runs[0], upstream=tuple(upstream.values()), partition=None)

    def of_kinds(self, recipe: Recipe, kinds: Collection[str] | None) -> list[Planned]:
        """Return a recipe's assets of some kinds (None: of all) and whatever these are made from, inputs first.

        Rollouts of a generator in this process need its base model, which no other asset of the data does.
        """
        planned = self.of_recipe(recipe)
        asked = [p for p in planned if kinds is None or p.kind in kinds]
        needed = {(p.asset, p.partition) for one in asked for p in one.lineage()}
        return [p for p in planned if (p.asset, p.partition) in needed]


def _keyed(mixture: Mixture) -> dict[str, Any]:
    """Return what decides a mixture, with files by their names: their content is keyed by its hash."""
    keyed = mixture.model_dump(mode="json")
    if not mixture.trajectories:
        del keyed["trajectories"]  # mixtures of other kinds keep the keys that they had before there was this one
    keyed["decontaminate_files"] = [Path(file).name for file in mixture.decontaminate_files]
    keyed["guard"]["boilerplate_files"] = [Path(file).name for file in mixture.guard.boilerplate_files]
    return keyed
