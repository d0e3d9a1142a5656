"""Best-of-N over checkpoints: which model picks how well among whose solutions, beside what others have published.

A view over (checkpoint, set of candidates): nothing is computed here, all figures stand in the scores artifacts.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rm_workflow.catalog.published import published_best_of_n
from rm_workflow.evaluation import stored
from rm_workflow.evaluation.checkpoint_scores import ScoredCheckpoint

RULE = "best_of_n"
Rows = list[dict[str, Any]]


def verifier_rows(checkpoints: Mapping[str, ScoredCheckpoint]) -> Rows:
    """Return one row for each set of candidates, method and verifier, the sets in the order of their names.

    Args:
        checkpoints: what ``scored_checkpoints`` returned.

    Returns:
        ``candidates`` (the set), ``n`` (how many of each problem), ``problems``, ``method``, ``verifier`` (the id of a
        checkpoint, None where no model picks), ``run`` of its sweep, ``score``, ``ci_low``, ``ci_high``,
        ``contamination``, ``published``, ``source``, ``note``. Sets that nobody scored here have published rows alone.
    """
    scored: dict[str, dict[str, Mapping[str, Any]]] = {}
    for checkpoint in checkpoints.values():
        for name, artifact in checkpoint.scores.items():
            figures = artifact.folder / stored.FIGURES
            found = json.loads(figures.read_text("utf-8")).get(name, {}) if figures.is_file() else {}
            if found.get("scoring") == RULE:
                scored.setdefault(name, {})[checkpoint.id] = found
    published = published_best_of_n()
    rows: Rows = []
    for name in sorted({*scored, *published}):
        results = scored.get(name, {})
        if results:
            rows += _without_verifier(name, next(iter(results.values())))
        for checkpoint_id, result in results.items():
            verdict = checkpoints[checkpoint_id].headline(name)["contamination"]
            found = _of_verifier(name, checkpoint_id, result, str(verdict))
            rows += [{**row, "run": checkpoints[checkpoint_id].run} for row in found]
        rows += published_rows(name)
    return rows


def published_rows(name: str) -> Rows:
    """Return what was published of one set of candidates, as fractions and without intervals."""
    return [
        {
            **_row(name, None, None, row.method, row.verifier, {"score": round(row.score / 100, 6)}),
            "published": True,
            "source": row.source,
            "note": row.note,
        }
        for row in published_best_of_n().get(name, ())
    ]


def method_rows(name: str, result: Mapping[str, Any], methods: Iterable[str]) -> Rows:
    """Return a row for each method at the largest number of candidates, each aggregator on its own."""
    size = list(result["n"])[-1]
    problems = result["counts"]["problems"]
    rows: Rows = []
    for method in methods:
        value, interval = result["n"][size][method], result["intervals"][size][method]
        of_parts = value if isinstance(value, Mapping) else {"": value}
        for part, score in of_parts.items():
            told = f"{method}, {part}" if part else method
            figures = {"score": score, **(interval[part] if part else interval)}
            rows.append(_row(name, int(size), problems, told, None, figures))
    return rows


def baseline_rows(name: str, result: Mapping[str, Any]) -> Rows:
    """Return a row for each baseline that asks no model, but for the majority, which is a method of its own."""
    size, problems = int(list(result["n"])[-1]), result["counts"]["problems"]
    nulls = {null: score for null, score in result["nulls"].items() if null != "majority"}
    return [_row(name, size, problems, f"baseline: {null}", None, score) for null, score in nulls.items()]


def _without_verifier(name: str, result: Mapping[str, Any]) -> Rows:
    """Return what the candidates give without a model: one of them, their majority, and the other baselines."""
    one = {"score": result["n"]["1"]["pass"], **result["intervals"]["1"]["pass"]}
    first = _row(name, 1, result["counts"]["problems"], "pass", None, one)
    return [first, *method_rows(name, result, ("majority",)), *baseline_rows(name, result)]


def _of_verifier(name: str, verifier: str, result: Mapping[str, Any], contamination: str) -> Rows:
    rows = method_rows(name, result, ("best_of_n", "weighted_majority"))
    return [{**row, "verifier": verifier, "contamination": contamination} for row in rows]


def _row(
    name: str, n: int | None, problems: int | None, method: str, verifier: str | None, figures: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "candidates": name,
        "n": n,
        "problems": problems,
        "method": method,
        "verifier": verifier,
        "run": None,
        **{key: figures.get(key) for key in ("score", "ci_low", "ci_high")},
        "contamination": None,
        "published": False,
        "source": None,
        "note": "",
    }
