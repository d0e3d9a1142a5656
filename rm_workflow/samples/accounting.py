"""What every rule must count on the sample, worked out from what was built and never from the files or the pipeline.

Plain Python over the rows in file order, pair by pair; the parameters are those of the quickstart recipe's pair sets.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations
from typing import Any

from rm_workflow.samples.rows import Messages, Row
from rm_workflow.samples.skills import normalised

ROW_RULES = ("broken_line", "bad_field", "context_differs", "empty_message", "not_alternating")
PAIR_RULES = {
    "dialogues": ("identical_responses", "exact_duplicate", "cap"),
    "ratings": ("score_ratio", "equal_score", "identical_responses", "exact_duplicate", "cap"),
}
MIXTURE_RULES = ("duplicate_across_sources", "group_in_test", "leak", "sample")

MIN_SCORE_RATIO = 1.25
MAX_PAIRS = {"dialogues": 2, "ratings": 4}
TRAIN_PAIRS = 420
# Words of a benchmark prompt that is recognised with a word changed, and what must be left of it: a run of so many
# words, or sets of words of this Jaccard similarity.
LONG_PROMPT = 20
LEAKING_RUN = 13
LEAKING_SIMILARITY = 0.7


@dataclass(frozen=True)
class Pair:
    """A candidate: what it says and where it stands; ``own_group`` is the source's own, if it has one."""

    source: str
    split: str
    row: int
    prompt: Messages
    chosen: str
    rejected: str
    own_group: str | None = None

    @property
    def key(self) -> tuple[Messages, str, str]:
        """Return what a pair_key is taken over."""
        return self.prompt, self.chosen, self.rejected

    @property
    def group(self) -> str:
        """Return the source's own group, or the normalised first user turn."""
        first = next(content for role, content in self.prompt if role == "user")
        return self.own_group or normalised(first)


Files = Mapping[tuple[str, str], Sequence[Row]]


def source_counts(files: Files, source: str) -> dict[str, Any]:
    """Return rows, used and dropped by row rule of one source."""
    rows = [row for (name, _), rows in files.items() if name == source for row in rows]
    dropped = Counter(row.row_rule for row in rows if row.row_rule)
    return {
        "rows": len(rows),
        "used": len(rows) - dropped.total(),
        "dropped": {rule: dropped[rule] for rule in ROW_RULES},
    }


@dataclass(frozen=True)
class PairSet:
    """A pair set's counts, the pairs that are left in file order, and all pairs of the prompts that lost some to cap.

    Which pairs of a prompt ``cap`` keeps is the pipeline's choice; here it is the first ones.
    """

    counts: dict[str, Any]
    kept: list[Pair]
    contested: list[Pair]


def pair_set(files: Files, source: str) -> PairSet:
    """Put the candidates of one source through its pair rules; the first rule that matches wins."""
    dropped: Counter[str] = Counter()
    by_prompt: defaultdict[Messages, list[Pair]] = defaultdict(list)
    seen: set[tuple[Messages, str, str]] = set()
    candidates = list(_candidates(files, source))
    for pair, ratio in candidates:
        rule = _score_rule(ratio) or _text_rule(pair, seen)
        if rule:
            dropped[rule] += 1
        else:
            seen.add(pair.key)
            by_prompt[pair.prompt].append(pair)
    most = MAX_PAIRS[source]
    kept = [pair for pairs in by_prompt.values() for pair in pairs[:most]]
    dropped["cap"] = sum(len(pairs[most:]) for pairs in by_prompt.values())
    counts = {
        "candidates": len(candidates),
        "kept": len(kept),
        "dropped": {rule: dropped[rule] for rule in PAIR_RULES[source]},
        "published": None,
    }
    return PairSet(counts, kept, [pair for pairs in by_prompt.values() if len(pairs) > most for pair in pairs])


def _candidates(files: Files, source: str) -> Iterator[tuple[Pair, float | None]]:
    """Yield each candidate with its score ratio (None for a dialogue): train before test, rows, slots in order."""
    for split in ("train", "test"):
        for number, row in enumerate(files[source, split], start=1):
            if row.row_rule:
                continue
            if row.scores is None:
                yield Pair(source, split, number, row.prompt, *row.replies), None
                continue
            for i, j in combinations(range(len(row.replies)), 2):
                best, worst = (i, j) if row.scores[i] >= row.scores[j] else (j, i)
                pair = Pair(source, split, number, row.prompt, row.replies[best], row.replies[worst])
                yield pair, row.scores[best] / row.scores[worst]


def _score_rule(ratio: float | None) -> str | None:
    """Return the rule for too close or equal scores; score_ratio leaves equal scores to equal_score."""
    if ratio is None or ratio >= MIN_SCORE_RATIO:
        return None
    return "equal_score" if ratio == 1 else "score_ratio"


def _text_rule(pair: Pair, seen: set[tuple[Messages, str, str]]) -> str | None:
    if pair.chosen == pair.rejected:
        return "identical_responses"
    return "exact_duplicate" if pair.key in seen else None


def mixture(
    pair_sets: Sequence[PairSet], benchmark_prompts: Iterable[str], train_pairs: int = TRAIN_PAIRS
) -> dict[str, Any]:
    """Return the counts of the mixture of pair sets in order of precedence, split by the sources' own files."""
    _check_cap_is_free(pair_sets)
    pairs = [pair for one in pair_sets for pair in one.kept]
    test_groups = {pair.group for pair in pairs if pair.split == "test"}
    test_prompts = {pair.prompt for pair in pairs if pair.split == "test"}
    leaking = {normalised(prompt) for prompt in benchmark_prompts}
    owner: dict[tuple[Messages, str, str], str] = {}
    dropped: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for pair in pairs:
        if owner.setdefault(pair.key, pair.source) != pair.source:
            dropped["duplicate_across_sources"] += 1
        elif pair.split == "train" and (pair.group in test_groups or pair.prompt in test_prompts):
            dropped["group_in_test"] += 1
        elif pair.split == "train" and any(_is_leak(turn, leaking) for turn in _user_turns(pair)):
            dropped["leak"] += 1
        else:
            left[pair.split] += 1
    dropped["sample"] = max(0, left["train"] - train_pairs)
    train = left["train"] - dropped["sample"]
    return {
        "candidates": len(pairs),
        "kept": train + left["test"],
        "dropped": {rule: dropped[rule] for rule in MIXTURE_RULES},
        "train": train,
        "test": left["test"],
    }


def _user_turns(pair: Pair) -> list[str]:
    return [normalised(content) for role, content in pair.prompt if role == "user"]


def _is_leak(turn: str, prompts: Iterable[str]) -> bool:
    """Return whether a user turn is one of the prompts, a long one with one word changed or cut off included."""
    found = re.findall(r"\w+", turn)
    return turn in prompts or any(_is_nearly(found, re.findall(r"\w+", prompt)) for prompt in prompts)


def _is_nearly(turn: Sequence[str], prompt: Sequence[str]) -> bool:
    """Return whether one word at most differs from a prompt that the turn repeats in a long run or in most words."""
    if len(prompt) < LONG_PROMPT or min(len(turn), len(prompt)) - (Counter(turn) & Counter(prompt)).total() > 1:
        return False
    run = SequenceMatcher(None, turn, prompt, autojunk=False).find_longest_match().size
    shared, both = len({*turn} & {*prompt}), len({*turn, *prompt})
    return run >= LEAKING_RUN or shared >= LEAKING_SIMILARITY * both


def _check_cap_is_free(pair_sets: Sequence[PairSet]) -> None:
    """Refuse a sample whose mixture counts depend on which pairs of a prompt ``cap`` keeps."""
    for one in pair_sets:
        splits: defaultdict[Messages, set[str]] = defaultdict(set)
        for pair in one.contested:
            splits[pair.prompt].add(pair.split)
        elsewhere = {pair.key for other in pair_sets if other is not one for pair in (*other.kept, *other.contested)}
        for pair in one.contested:
            if len(splits[pair.prompt]) > 1 or pair.key in elsewhere:
                raise RuntimeError(
                    f"line {pair.row} of {pair.source} {pair.split}: the counts depend on what cap keeps"
                )
