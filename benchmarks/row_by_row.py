"""The rival of the data stage: the same rules written row by row with ``datasets``, texts carried through every step.

What a person writes in a notebook: a map that makes the pairs, one filter a rule, Python sets for what must be unique,
Python n-grams for the guard. One process, because the sets are wrong with more (each process has its own).
"""

import hashlib
import itertools
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
MAX_PAIRS = 5
NGRAM_WORDS = 13
MIN_PROMPT_WORDS = 20
MIN_RESPONSE_WORDS = 30
RESPONSE_SHARE = 0.5


def read_rows(path: Path, cache: Path) -> Any:
    """Return the rows of a file as a dataset."""
    from datasets import load_dataset

    return load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache))


def build_pairs(rows: Any) -> tuple[Any, dict[str, int]]:
    """Return (pairs as a dataset, number dropped by rule)."""
    pairs = rows.map(_pairs_of, batched=True, batch_size=1, remove_columns=rows.column_names, desc="pairs")
    dropped: dict[str, int] = {}
    seen: set[bytes] = set()
    of_prompt: Counter[str] = Counter()
    rules = {
        "rating": lambda row: row["chosen_score"] is not None and row["rejected_score"] is not None,
        "equal_score": lambda row: row["chosen_score"] != row["rejected_score"],
        "identical_responses": lambda row: row["chosen"] != row["rejected"],
        "exact_duplicate": lambda row: _is_new(row, seen),
    }
    for rule, keeps in rules.items():
        before = len(pairs)
        pairs = pairs.filter(keeps, load_from_cache_file=False, desc=rule)
        dropped[rule] = before - len(pairs)
    before = len(pairs)
    # The pairs of a prompt with the smallest hashes stay: in the order of the hashes the first five of each prompt.
    pairs = pairs.map(lambda row: {"draw": _digest(row).hex()}, load_from_cache_file=False, desc="draw").sort("draw")
    pairs = pairs.filter(lambda row: _within_cap(row, of_prompt), load_from_cache_file=False, desc="cap")
    # Without this every later step would jump through the file in the order of the hashes.
    pairs = pairs.flatten_indices()
    dropped["cap"] = before - len(pairs)
    return pairs, dropped


def build_mixture(pairs: Any, items: Sequence[Row], out: Path) -> dict[str, int]:
    """Split, decontaminate and write pairs; return numbers: train, test, leak, marked."""
    guard = Guard(items)
    pairs = pairs.map(lambda row: {"split": _side(row["prompt"])}, load_from_cache_file=False, desc="split")
    before = len(pairs)
    pairs = pairs.filter(
        lambda row: row["split"] == "test" or not guard.holds_prompt(row["prompt"]),
        load_from_cache_file=False,
        # Else the guard's sets are pickled to name the cache file, which takes longer than the work.
        new_fingerprint="leak",
        desc="leak",
    )
    leak = before - len(pairs)
    pairs = pairs.map(
        lambda row: {
            "marked": row["split"] == "train"
            and (guard.holds_response(row["chosen"]) or guard.holds_response(row["rejected"]))
        },
        load_from_cache_file=False,
        new_fingerprint="responses",
        desc="responses",
    )
    pairs = pairs.sort(["prompt", "draw"])
    pairs.to_parquet(str(out))
    test = sum(side == "test" for side in pairs["split"])
    return {"train": len(pairs) - test, "test": test, "leak": leak, "marked": sum(pairs["marked"])}


def _pairs_of(batch: Mapping[str, list[Any]]) -> Row:
    columns: dict[str, list[Any]] = {
        name: [] for name in ("prompt", "chosen", "rejected", "chosen_score", "rejected_score")
    }
    for prompt, completions in zip(batch["instruction"], batch["completions"], strict=True):
        for first, second in itertools.combinations(completions, 2):
            scores = [_score(first), _score(second)]
            turned = None not in scores and scores[0] < scores[1]  # type: ignore[operator]
            chosen, rejected = (second, first) if turned else (first, second)
            columns["prompt"].append(prompt)
            columns["chosen"].append(chosen["response"])
            columns["rejected"].append(rejected["response"])
            for name, score in zip(
                ("chosen_score", "rejected_score"), sorted(scores, reverse=True, key=_known), strict=True
            ):
                columns[name].append(None if score is None else str(score))
    return columns


def _known(score: Fraction | None) -> Fraction:
    return Fraction(-1) if score is None else score


def _score(completion: Mapping[str, Any]) -> Fraction | None:
    ratings = [completion["annotations"][aspect]["Rating"] for aspect in ASPECTS]
    numbers = [int(rating) for rating in ratings if rating != "N/A"]
    return Fraction(sum(numbers), len(numbers)) if numbers else None


def _digest(row: Mapping[str, Any]) -> bytes:
    return hashlib.sha256("\x00".join((row["prompt"], row["chosen"], row["rejected"])).encode()).digest()


def _is_new(row: Mapping[str, Any], seen: set[bytes]) -> bool:
    digest = _digest(row)
    new = digest not in seen
    seen.add(digest)
    return new


def _within_cap(row: Mapping[str, Any], of_prompt: Counter[str]) -> bool:
    of_prompt[row["prompt"]] += 1
    return of_prompt[row["prompt"]] <= MAX_PAIRS


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _side(prompt: str) -> str:
    share = int(hashlib.sha256(_normalised(prompt).encode()).hexdigest()[:8], 16) / 16**8
    return "test" if share < 0.1 else "train"


def _ngrams(text: str) -> set[tuple[str, ...]]:
    words = _normalised(text).split()
    return {tuple(words[start : start + NGRAM_WORDS]) for start in range(len(words) - NGRAM_WORDS + 1)}


class Guard:
    """The n-grams and the normalised prompts of benchmark items, in sets."""

    def __init__(self, items: Sequence[Row]) -> None:
        self.prompts = {_normalised(item["prompt"]) for item in items}
        self.prompt_ngrams = set().union(
            *(_ngrams(item["prompt"]) for item in items if len(item["prompt"].split()) >= MIN_PROMPT_WORDS)
        )
        responses = [text for item in items for text in (item["chosen"], item["rejected"])]
        self.responses = [_ngrams(text) for text in responses if len(text.split()) >= MIN_RESPONSE_WORDS]
        self.items_of: dict[tuple[str, ...], list[int]] = {}
        for number, ngrams in enumerate(self.responses):
            for ngram in ngrams:
                self.items_of.setdefault(ngram, []).append(number)

    def holds_prompt(self, prompt: str) -> bool:
        """Return whether a prompt is a benchmark's, or shares an n-gram with one of at least 20 words."""
        if _normalised(prompt) in self.prompts:
            return True
        return not self.prompt_ngrams.isdisjoint(_ngrams(prompt))

    def holds_response(self, response: str) -> bool:
        """Return whether a response shares at least half of a benchmark response's n-grams."""
        shared = Counter(number for ngram in _ngrams(response) for number in self.items_of.get(ngram, ()))
        return any(count >= RESPONSE_SHARE * len(self.responses[number]) for number, count in shared.items())
