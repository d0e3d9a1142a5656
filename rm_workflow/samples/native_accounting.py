"""What the pair sets of RM-Mistral-7B must count on the native sources, worked out from what was built.

Plain Python over the meanings of the rows, pair by pair; the parameters are those of the published recipe, written
here a second time. Files come in the order of their names, as the first of repeated pairs is the one that stays.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

from rm_workflow.samples import accounting
from rm_workflow.samples.accounting import ROW_RULES, Pair, PairSet
from rm_workflow.samples.native_rows import Dropped, Given, NativeRow, NativeSource, Rated
from rm_workflow.samples.rows import Messages

# SHP: score ratio above 2, at most 5 comparisons a post.
MIN_SCORE_RATIO = 2
MAX_PAIRS = 5

PAIR_SETS = {
    "shp": "shp_gt2_cap5",
    "ultrafeedback": "ultrafeedback_fine_grained",
    "helpsteer": "helpsteer_helpfulness_correctness",
    "capybara": "capybara",
    "orca": "orca",
    "pku_safe_rlhf_30k_better": "pku_safe_rlhf_30k_better",
    "pku_safe_rlhf_30k_safer": "pku_safe_rlhf_30k_safer",
}
RATED_RULES = ("rating", "equal_score", "identical_responses", "exact_duplicate")
TEXT_RULES = ("identical_responses", "exact_duplicate")
PAIR_RULES = {
    "shp": ("score_ratio", "equal_score", *TEXT_RULES, "cap"),
    "ultrafeedback": RATED_RULES,
    "helpsteer": RATED_RULES,
    "capybara": TEXT_RULES,
    "orca": ("status", "in_gsm8k_train", *TEXT_RULES),
    "pku_safe_rlhf_30k_better": TEXT_RULES,
    "pku_safe_rlhf_30k_safer": TEXT_RULES,
}

Files = Mapping[str, Sequence[NativeRow]]
Scores = tuple[Fraction | None, Fraction | None]


@dataclass(frozen=True)
class Candidate:
    """A pair with what a rule may judge."""

    pair: Pair
    scores: Scores
    marks: frozenset[str]


@dataclass(frozen=True)
class Reading:
    """Counts of a source under one reading, and its pair set."""

    source: dict[str, Any]
    pair_set: PairSet


def of_reading(source: NativeSource, files: Files, reading: str) -> Reading:
    """Return the counts of one reading of a source's rows."""
    meanings = [row.means[reading] for rows in files.values() for row in rows]
    dropped = Counter(meaning.rule for meaning in meanings if isinstance(meaning, Dropped))
    counts = {
        "rows": len(meanings),
        "used": len(meanings) - dropped.total(),
        "dropped": {rule: dropped[rule] for rule in ROW_RULES},
    }
    candidates = [one for file in sorted(files) for one in _candidates(source, file, files[file], reading)]
    return Reading(counts, _pair_set(candidates, PAIR_RULES[reading]))


def mixture(readings: Sequence[Reading], benchmark_prompts: Sequence[str], train_pairs: int) -> dict[str, Any]:
    """Return the counts of the mixture of these readings in order of precedence."""
    return accounting.mixture([reading.pair_set for reading in readings], benchmark_prompts, train_pairs)


def _candidates(source: NativeSource, file: str, rows: Sequence[NativeRow], reading: str) -> Iterator[Candidate]:
    split = source.files[file].split
    lists: defaultdict[object, list[tuple[int, Rated]]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        meaning = row.means[reading]
        if isinstance(meaning, Given):
            group = None if meaning.group is None else f"{reading} group {meaning.group}"
            pair = Pair(reading, split, number, meaning.prompt, meaning.chosen, meaning.rejected, group)
            yield Candidate(pair, meaning.scores or (None, None), meaning.marks)
        elif isinstance(meaning, Rated):
            # HelpSteer's rows are single responses: those of one prompt are compared.
            lists[meaning.prompt if len(meaning.replies) == 1 else number].append((number, meaning))
    for of_list in lists.values():
        yield from _rated(reading, split, of_list)


def _rated(reading: str, split: str, of_list: Sequence[tuple[int, Rated]]) -> Iterator[Candidate]:
    """Yield each two responses of a list, the higher score first."""
    replies = [(number, *reply) for number, rated in of_list for reply in rated.replies]
    for first, second in combinations(replies, 2):
        scores = first[2], second[2]
        turned = scores[0] is not None and scores[1] is not None and scores[0] < scores[1]
        best, worst = (second, first) if turned else (first, second)
        pair = Pair(reading, split, first[0], of_list[0][1].prompt, best[1], worst[1])
        yield Candidate(pair, (best[2], worst[2]), frozenset())


def _too_close(one: Candidate) -> bool:
    chosen, rejected = one.scores
    if chosen is None or rejected is None:
        return True
    return chosen != rejected and not (rejected > 0 and chosen > MIN_SCORE_RATIO * rejected)


# Rules that look at one pair alone.
JUDGES: dict[str, Callable[[Candidate], bool]] = {
    "rating": lambda one: None in one.scores,
    "score_ratio": _too_close,
    "status": lambda one: "tie" in one.marks,
    "in_gsm8k_train": lambda one: "in_gsm8k_train" in one.marks,
    "equal_score": lambda one: one.scores[0] is not None and one.scores[0] == one.scores[1],
    "identical_responses": lambda one: one.pair.chosen == one.pair.rejected,
}


def _pair_set(candidates: Sequence[Candidate], rules: Sequence[str]) -> PairSet:
    """Put candidates through the rules; the first that matches wins."""
    dropped: Counter[str] = Counter()
    by_prompt: defaultdict[Messages, list[Pair]] = defaultdict(list)
    seen: set[tuple[Messages, str, str]] = set()
    for one in candidates:
        rule = next((rule for rule in rules if rule in JUDGES and JUDGES[rule](one)), None)
        if rule is None and one.pair.key in seen:
            rule = "exact_duplicate"
        if rule is None:
            seen.add(one.pair.key)
            by_prompt[one.pair.prompt].append(one.pair)
        else:
            dropped[rule] += 1
    most = MAX_PAIRS if "cap" in rules else len(candidates)
    kept = [pair for pairs in by_prompt.values() for pair in pairs[:most]]
    dropped["cap"] = sum(len(pairs[most:]) for pairs in by_prompt.values())
    counts = {
        "candidates": len(candidates),
        "kept": len(kept),
        "dropped": {rule: dropped[rule] for rule in rules},
        "published": None,
    }
    return PairSet(counts, kept, [pair for pairs in by_prompt.values() if len(pairs) > most for pair in pairs])
