"""Everything that is known about one checkpoint, gathered from its artifacts and from those it was made from.

Card, report and fit for use read this and nothing else. What was never measured is absent, not zero: the accessors
return None, an empty mapping or an empty list.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.catalog import licences
from rm_workflow.catalog.models import Catalog, PublishedFigures, Recipe
from rm_workflow.errors import UserError
from rm_workflow.models.chat_templates import difference, stored_template
from rm_workflow.preferences import counts

TEST = "test"
CHECKPOINT_SUFFIX = "_checkpoint"
UNKNOWN = "unknown"
BEST_OF_N = "best_of_n"
SAMPLES = "samples:"
ROWS = "rows:"
README = "README.md"
CARD_CHECKS = (
    ("no_placeholder_is_left", "No placeholder and no mark of work to do stands in the card."),
    ("metadata_can_be_read", "The card's metadata are read back by huggingface_hub with every score."),
)
# Kinds of artifacts whose counts are the funnel, and what their assets' names begin with.
COUNTED = {"raw": "raw_", "pairs": "pairs_"}
FINAL_STEPS = 50
# Parts of a benchmark's result that are themselves score objects by name.
PARTS = ("per_source", "sections", "subsets", "domains")

Rows = list[dict[str, Any]]


def about_recipe(recipe: Recipe, catalog: Catalog) -> dict[str, Any]:
    """Return what only the catalogue knows about a recipe's checkpoint, see ``about``."""
    benchmarks = [name for name in recipe.evaluation.evaluate_on if name != TEST]
    return about(catalog, recipe.name, list(licences.sources_of(recipe, catalog)), recipe.base, benchmarks)


def about(
    catalog: Catalog, recipe: str, sources: Sequence[str], base: str, benchmarks: Sequence[str]
) -> dict[str, Any]:
    """Return as JSON what only the catalogue knows: licences, attribution, where rows come from, published figures.

    Args:
        recipe: its name; one that the catalogue does not hold has no description.
        sources: names of sources in the catalogue.
    """
    described = catalog.recipes.get(recipe)
    entries = {name: catalog.sources[name] for name in sources}
    return {
        "description": described.description if described else "",
        "published": (described.published if described else PublishedFigures()).model_dump(mode="json"),
        "base": without_folder(base),
        "base_licence": licences.base_terms(base)[0],
        "licences": licences.roll_up(entries, without_folder(base)),
        "sources": {
            name: {
                "hub": source.hub,
                "origin": source.hub or _sample_or_files(source.path),
                "licence": source.licence,
                "real_rows": source.proven_on_real_rows,
                "languages": source.languages,
                **({"test_problems": source.test_problems} if source.test_problems else {}),
            }
            for name, source in entries.items()
        },
        "benchmarks": {
            name: {"hub": known.hub, "origin": known.hub or _sample_or_files(known.path)}
            for name, known in ((name, catalog.benchmarks[name]) for name in benchmarks if name in catalog.benchmarks)
        },
    }


def _sample_or_files(path: str | None) -> str:
    if path and path.startswith(SAMPLES):
        return path
    return f"rows that no hub has: {path.removeprefix(ROWS)}" if path and path.startswith(ROWS) else "own files"


def without_folder(path: str) -> str:
    """Return a name that says nothing about the folders of a machine; hub ids and packages stay as they are."""
    return PurePath(path).name if PurePath(path).is_absolute() or path.startswith(("~", "..")) else path


@dataclass(frozen=True)
class Evidence:
    """One checkpoint with all that is recorded about it.

    Attributes:
        chain: every artifact upstream of the checkpoint and of its scores, and both themselves, inputs first.
        about: what ``about`` returned; part of the key of a card.
        scores: the scores of this very checkpoint, or None where it was never evaluated.
        num_scored: checkpoints of the same recipe that were scored, or None where nobody counted.
        selected_by: by benchmark, among how many runs this one was chosen as main by its score there.
        drawn: plots by file name; card and report show the same ones.
    """

    checkpoint: Artifact
    chain: Sequence[Artifact]
    about: Mapping[str, Any]
    scores: Artifact | None = None
    num_scored: int | None = None
    selected_by: Mapping[str, int] = field(default_factory=dict)
    drawn: dict[str, bytes] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """Return the checkpoint's name without ``_checkpoint``."""
        return self.checkpoint.asset.removesuffix(CHECKPOINT_SUFFIX)

    @property
    def result(self) -> Mapping[str, Any]:
        """Return the figures of the training run."""
        return self.checkpoint.facts

    @cached_property
    def run_config(self) -> Mapping[str, Any]:
        """Return the resolved configuration of the training, with how its run was made, which is in no key."""
        facts = self.first("run_config").facts
        return {**facts, "training": {**facts["training"], **self.result["trained_with"]}}

    @property
    def recipe(self) -> dict[str, Any]:
        """Return the recipe that makes this checkpoint, as its artifacts recorded it; the base's folder is left out."""
        config = self.run_config
        evaluation = {} if self.scores is None else {"evaluation": self._evaluation(self.scores)}
        return {
            "name": self.name,
            "base": self.about["base"],
            "objective": config["objective"],
            "mixture": self.first("mixture").manifest["parameters"],
            "tokens": config["token_recipe"],
            "training": config["training"],
            **evaluation,
        }

    def _evaluation(self, scores: Artifact) -> dict[str, Any]:
        # The recorded precision is what the device made of the recipe's.
        left_out = ("device", "precision")
        return {name: value for name, value in scores.manifest["parameters"].items() if name not in left_out}

    @cached_property
    def token_recipe(self) -> dict[str, Any]:
        """Return what ``token_recipe.json`` of the model says."""
        return _read(self.checkpoint.folder / "model/token_recipe.json")

    @property
    def template_difference(self) -> str:
        """Return what the chat template changes in the base model's own, as a diff."""
        base = stored_template(self.first("base").folder / "model")
        return difference(base, self.token_recipe["template_text"])

    @cached_property
    def model_config(self) -> dict[str, Any]:
        """Return the model's ``config.json``."""
        return _read(self.checkpoint.folder / "model/config.json")

    @cached_property
    def metrics(self) -> Rows:
        """Return the lines of ``metrics.jsonl``."""
        return _lines(self.checkpoint.folder / "metrics.jsonl")

    @cached_property
    def validations(self) -> Rows:
        """Return the lines of ``validation.jsonl``."""
        return _lines(self.checkpoint.folder / "validation.jsonl")

    @cached_property
    def details(self) -> dict[str, Any]:
        """Return ``scores.json``: benchmark -> its whole result, the headline among it."""
        return _read(self.scores.folder / "scores.json") if self.scores else {}

    @cached_property
    def analysis(self) -> dict[str, Any]:
        """Return ``analysis.json`` of the scores: benchmark -> calibration, length, nulls, flip, margin."""
        return _read(self.scores.folder / "analysis.json") if self.scores else {}

    @cached_property
    def probes(self) -> dict[str, Any]:
        """Return ``probes.json`` of the scores: what rewritten replies and missing prompts do to the reward."""
        return _read(self.scores.folder / "probes.json") if self.scores else {}

    @property
    def rewrites(self) -> dict[str, Mapping[str, Any]]:
        """Return what was measured of each rewrite of replies, by its name."""
        found: dict[str, Mapping[str, Any]] = self.probes.get("probes", {})
        return found

    @property
    def headlines(self) -> Mapping[str, Any]:
        """Return the headline of each benchmark, the contamination verdict among it."""
        found: Mapping[str, Any] = self.scores.facts["scores"] if self.scores else {}
        return found

    @cached_property
    def overlap(self) -> Mapping[str, Any]:
        """Return for each benchmark its verdict and how many of its items the train pairs hold."""
        return {name: self._overlaps.get(name, {"verdict": UNKNOWN}) for name in self.headlines}

    @property
    def overlap_unscored(self) -> Mapping[str, Any]:
        """Return the same for what the mixture was compared with and the checkpoint was not scored on."""
        return {name: found for name, found in self._overlaps.items() if name not in self.headlines}

    @cached_property
    def _overlaps(self) -> Mapping[str, Any]:
        overlaps = self.of_kind("overlap")
        return overlaps[0].facts["benchmarks"] if overlaps else {}

    def is_of_clean_items(self, benchmark: str) -> bool:
        """Tell whether a headline leaves out the items that train pairs hold; all items then stand beside it."""
        headline = self.headlines.get(benchmark) or {}
        return "all_items" in headline and headline["n"] < headline["all_items"]["n"]

    def test_analysis(self, *keys: str) -> Any:
        """Return one value of the test split's analysis, or None where any key on the way is absent or null."""
        value: Any = self.analysis.get(TEST)
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def nulls(self, benchmark: str) -> dict[str, float]:
        """Return the scores of baselines that read nothing, or not all, by name; the headline's own come first."""
        headline = self.headlines.get(benchmark) or {}
        if benchmark in self.best_of_n:
            return {name: null["score"] for name, null in self.best_of_n[benchmark]["nulls"].items()}
        found = {name: headline[name] for name in ("pick_longer", "pick_shorter") if headline.get(name) is not None}
        for name, null in ((self.analysis.get(benchmark) or {}).get("nulls") or {}).items():
            score = null.get("score") if isinstance(null, Mapping) else null
            if score is not None:
                found.setdefault(name, score)
        return found

    def parts(self, benchmark: str) -> dict[str, Mapping[str, Any]]:
        """Return the score objects that stand below a benchmark's headline: sources, sections, subsets, domains."""
        whole = {**(self.details.get(benchmark) or {}), **(self.headlines.get(benchmark) or {})}
        return {name: one for key in PARTS for name, one in (whole.get(key) or {}).items() if isinstance(one, Mapping)}

    @property
    def best_of_n(self) -> dict[str, Mapping[str, Any]]:
        """Return the figures over the number of candidates by benchmark, of those that the rule best_of_n scores."""
        return {name: found for name, found in self.details.items() if found.get("scoring") == BEST_OF_N}

    @property
    def missing_subsets(self) -> list[str]:
        """Return ``benchmark: subset`` of what a score was computed without."""
        details = self.details.items()
        return [f"{name}: {part}" for name, one in details for part in one.get("missing_subsets") or ()]

    @cached_property
    def counts(self) -> dict[str, Any]:
        """Return the funnel in the shape of ``rmw counts --json``."""
        found = {
            kind: {one.asset.removeprefix(prefix): one.facts for one in self.of_kind(kind)}
            for kind, prefix in COUNTED.items()
        }
        mixture, tokens = self.first("mixture"), self.first("tokens")
        return counts.counts(found["raw"], found["pairs"], {mixture.asset: mixture.facts}, {tokens.asset: tokens.facts})

    def of_kind(self, kind: str) -> list[Artifact]:
        """Return the artifacts of one kind that the checkpoint's data come from, in the order of the chain."""
        return [artifact for artifact in self.chain if artifact.kind == kind]

    def first(self, kind: str) -> Artifact:
        """Return the only artifact of a kind that every checkpoint has."""
        return self.of_kind(kind)[0]

    @property
    def generated(self) -> list[str]:
        """Return the sources and benchmarks whose rows rm_workflow generated itself."""
        known = {**self.about["sources"], **self.about["benchmarks"]}
        return [name for name, one in known.items() if one["origin"].startswith(SAMPLES)]

    @property
    def raw_folders(self) -> list[Path]:
        """Return the folders that hold the texts."""
        return [artifact.folder for artifact in self.of_kind("raw")]

    @property
    def unit(self) -> str:
        """Return what an optimiser step counts: pairs, responses, prompts or blocks."""
        return str(self.run_config["training"]["batch_unit"])

    @property
    def trained_on(self) -> str:
        """Return what the training rows are: blocks are packed of whole solutions."""
        return "solutions" if self.unit == "blocks" else self.unit

    @property
    def first_line(self) -> Mapping[str, Any]:
        """Return the first logged figures of training."""
        return self.metrics[0]

    @cached_property
    def final(self) -> dict[str, Any]:
        """Return ``loss``, ``accuracy``, ``steps`` and ``pairs`` of the last steps, at most 50, weighted by pairs.

        Accuracy is None where no reward is right or wrong.

        Lines that begin before the last 50 steps are left out, so that there may be fewer.
        """
        begins = [0, *(line["step"] for line in self.metrics)]
        last = self.metrics[-1]["step"]
        kept = [line for begin, line in zip(begins, self.metrics, strict=False) if begin >= last - FINAL_STEPS]
        pairs = sum(line["pairs"] for line in kept)
        start = next(begin for begin, line in zip(begins, self.metrics, strict=False) if line is kept[0])
        judged = [line for line in kept if line["accuracy"] is not None]
        counts = [line["judged"] if "judged" in line else line["pairs"] for line in judged]
        correct = sum(line["accuracy"] * count for line, count in zip(judged, counts, strict=True))
        return {
            "loss": sum(line["loss"] * line["pairs"] for line in kept) / pairs,
            "accuracy": correct / sum(counts) if judged else None,
            "steps": last - start,
            "pairs": pairs,
        }

    @property
    def micro_batches_per_step(self) -> float | None:
        """Return the micro-batches that an optimiser step was accumulated from, on average, where it was counted."""
        counted = [line for line in self.metrics if line.get("micro_batches")]
        steps = [line["pairs"] for line in counted]
        return (
            sum(line["micro_batches"] * n for line, n in zip(counted, steps, strict=True)) / sum(steps)
            if steps
            else None
        )

    def lineage(self) -> Rows:
        """Return one row for each artifact of the chain: kind, name, version, made from; files with their sha256."""
        rows: Rows = []
        files: dict[str, str] = {}
        for artifact in self.chain:
            external = {file["name"]: file["sha256"] for file in artifact.manifest["external_files"]}
            files.update(external)
            made_from = [*(entry["asset"] for entry in artifact.manifest["inputs"]), *external]
            rows.append(
                {"kind": artifact.kind, "name": artifact.asset, "version": artifact.version, "made_from": made_from}
            )
        named = [{"kind": "file", "name": name, "version": files[name], "made_from": []} for name in files]
        return [*named, *rows]


def chain_of(store: ArtifactStore, checkpoint: Artifact, scores: Artifact | None) -> tuple[Artifact, ...]:
    """Return everything upstream of a checkpoint and of its scores, inputs first, and both themselves.

    Raises:
        UserError: an artifact that one was made from is gone.
    """
    found: dict[str, Artifact] = {}
    for end in (checkpoint, scores):
        for artifact in _upstream(store, end) if end else ():
            found.setdefault(artifact.id, artifact)
    return tuple(found.values())


def _upstream(store: ArtifactStore, artifact: Artifact) -> Iterator[Artifact]:
    for upstream in store.inputs_of(artifact):
        yield from _upstream(store, upstream)
    yield artifact


def scores_of(store: ArtifactStore, checkpoint: Artifact) -> Artifact | None:
    """Return the newest scores that were computed with this very checkpoint, or None."""
    asset = checkpoint.asset.removesuffix(CHECKPOINT_SUFFIX) + "_scores"
    for event in store.events(asset=asset, kinds=("publish", "reuse"), newest_first=True):
        scores = store.find(asset, event["version"])
        if scores and _is_made_from(scores, checkpoint):
            return scores
    return None


def _is_made_from(artifact: Artifact, upstream: Artifact) -> bool:
    return any(
        (entry["asset"], entry["version"]) == (upstream.asset, upstream.version)
        for entry in artifact.manifest["inputs"]
    )


def about_checkpoint(chain: Sequence[Artifact], catalog: Catalog, store: ArtifactStore) -> Mapping[str, Any]:
    """Return ``about`` of the checkpoint at the end of a chain; what left the catalogue is taken from its last card.

    Raises:
        UserError: a source is not in the catalogue and there is no card.
    """
    checkpoint = next(artifact for artifact in chain if artifact.kind == "checkpoint")
    name = checkpoint.asset.removesuffix(CHECKPOINT_SUFFIX)
    sources = [one.asset.removeprefix(COUNTED["raw"]) for one in chain if one.kind == "raw"]
    missing = [source for source in sources if source not in catalog.sources]
    if not missing:
        benchmarks = [one.asset.removeprefix("bench_") for one in chain if one.kind == "benchmark"]
        return about(catalog, name, sources, checkpoint.facts["base"], benchmarks)
    card = store.latest(f"{name}_card")
    if card is None or not _is_made_from(card, checkpoint):
        raise UserError(
            f"source {missing[0]} of {checkpoint.id} is not in the catalogue, which knows its licence; put it back "
            "into catalog/sources.yaml"
        )
    recorded: Mapping[str, Any] = card.manifest["parameters"]["about"]
    return recorded


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _lines(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
