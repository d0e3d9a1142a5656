"""The contamination verdict of every score: clean, leaky (with the score of clean items as headline) or unknown.

The overlap of the mixture with each benchmark names the items whose prompt or reply stands in the training pairs. The
benchmark's own rule on the items that are left is the headline; the score of all items stands beside it as
``all_items``. Where the rule gives no score without the leaked items (a subset is gone), the headline is that of all.

``leaked_items.json`` lists, by benchmark, the items that were left out (pair ids for ``test``).
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rm_workflow.artifacts import Built
from rm_workflow.database import connect, quote_literal
from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks as rules
from rm_workflow.evaluation import stored, test_split

FILE = "leaked_items.json"
LEAKY, UNKNOWN = "leaky", "unknown"
SCORE_KEYS = ("score", "n", "ci_low", "ci_high", "ties")
Scores = dict[str, Any]

LEAKED_ITEMS = """
-- the items of each benchmark whose prompt or reply stands in a train pair
select benchmark, list(distinct item_id order by item_id) as items
from read_parquet({overlap}) group by benchmark order by benchmark
"""

LEAKED_PAIRS = """
-- the test pairs of leaked prompts: an item of the test split is a prompt
select pair_id from read_parquet({pairs})
where split = 'test' and list_contains({items}, prompt_id)
order by pair_id
"""


def leaked_items(overlap: Path, tokens: Path) -> dict[str, list[str]]:
    """Return the leaked items by benchmark, pair ids for the test split; benchmarks without any are absent.

    Args:
        overlap: folder of the overlap artifact.
        tokens: folder of the tokens artifact whose test pairs were scored.
    """
    with connect() as con:
        file = quote_literal(str(overlap / "overlap.parquet"))
        found = {str(name): list(items) for name, items in con.execute(LEAKED_ITEMS.format(overlap=file)).fetchall()}
        if stored.TEST in found:
            pairs = quote_literal(str(tokens / "pairs.parquet"))
            query = LEAKED_PAIRS.format(pairs=pairs, items="$items")
            found[stored.TEST] = [row[0] for row in con.execute(query, {"items": found[stored.TEST]}).fetchall()]
    return {name: items for name, items in found.items() if items}


def with_verdicts(
    built: Built,
    verdicts: Mapping[str, str],
    leaked: Mapping[str, list[str]],
    benchmarks: Mapping[str, Path],
    out: Path,
) -> Built:
    """Return scores with the verdict of each benchmark, and the score of clean items as headline where it is leaky.

    Args:
        built: what ``build_scores`` returned.
        verdicts: benchmark -> clean, leaky or unknown.
        leaked: what ``leaked_items`` returned.
        benchmarks: name -> folder of a benchmark artifact.
        out: the folder of the scores, to which ``leaked_items.json`` is added.
    """
    scores = {}
    for name, score in built.facts["scores"].items():
        items = leaked.get(name, [])
        clean = _clean_score(name, items, benchmarks, out) if items else None
        scores[name] = judged(score, clean, verdicts.get(name, UNKNOWN), len(items))
    shown = {name: list(leaked[name]) for name in sorted(scores.keys() & leaked.keys())}
    (out / FILE).write_text(json.dumps(shown, indent=1, sort_keys=True) + "\n", "utf-8")
    return replace(built, facts={**built.facts, "scores": scores})


def judged(score: Scores, clean: Scores | None, verdict: str, num_leaked: int) -> Scores:
    """Return the headline of one benchmark with its verdict.

    Args:
        score: of all items.
        clean: of the items that did not leak, or None where none leaked or the rule gives no score without them.
        num_leaked: items that were left out.
    """
    if verdict != LEAKY:
        return {**score, "contamination": verdict}
    headline = {**(clean or score), "contamination": verdict, "leaked_items": num_leaked}
    return {**headline, "all_items": {key: score[key] for key in SCORE_KEYS}}


def read_leaked(scores_folder: Path) -> dict[str, list[str]]:
    """Return the items of a scores artifact that were left out of its headlines, by benchmark."""
    path = scores_folder / FILE
    found: dict[str, list[str]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def _clean_score(name: str, leaked: list[str], benchmarks: Mapping[str, Path], out: Path) -> Scores | None:
    if name == stored.TEST:
        pairs = test_split.read_pairs(out / stored.TEST_PAIRS).without(leaked)
        return test_split.summarise(pairs) if pairs.pair_ids else None
    rows = stored.benchmark_rows(out, name, benchmarks[name]).without(leaked)
    if not rows.rows:
        return None
    rule = rules.rule(rows.scoring)
    try:
        return rule.headline(rule.aggregate(list(rows.rows.values())))
    except UserError:  # what is left cannot be scored, for instance ratings that are all equal
        return None
