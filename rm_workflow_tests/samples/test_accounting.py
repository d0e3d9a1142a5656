"""The planted counts are found again by a second, blunt reading of the written files."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
COUNTS = json.loads((SAMPLES / "planted.json").read_text())["counts"]
TURN = re.compile(r"\n\n(Human|Assistant): ?")


def parse(text: Any) -> list[tuple[str, str]] | None:
    if not isinstance(text, str):
        return None
    _, *parts = TURN.split(text)
    return list(zip(parts[::2], parts[1::2], strict=True))


def dialogue_rule(line: str) -> tuple[str | None, list]:
    try:
        row = json.loads(line)
    except ValueError:
        return "broken_line", []
    chosen, rejected = parse(row.get("chosen")), parse(row.get("rejected"))
    if chosen is None or rejected is None:
        return "bad_field", []
    if chosen[:-1] != rejected[:-1]:
        return "context_differs", []
    if not all(text.strip() for _, text in chosen + rejected):
        return "empty_message", []
    if [role for role, _ in chosen] != ["Human", "Assistant"] * (len(chosen) // 2):
        return "not_alternating", []
    users = [text for role, text in chosen[:-1] if role == "Human"]
    return None, [(str(chosen[:-1]), users, chosen[-1][1], rejected[-1][1], None)]


def rating_rule(line: str) -> tuple[str | None, list]:
    try:
        row = json.loads(line)
    except ValueError:
        return "broken_line", []
    completions, prompt = row.get("completions"), row.get("prompt")
    if not isinstance(completions, list) or not isinstance(prompt, str):
        return "bad_field", []
    if not all(isinstance(one["text"], str) for one in completions):
        return "bad_field", []
    if not all(one["text"].strip() for one in completions):
        return "empty_message", []
    scored = [(one["ratings"]["helpfulness"] + one["ratings"]["correctness"], one["text"]) for one in completions]
    candidates = []
    for a, b in combinations(scored, 2):
        high, low = (a, b) if a[0] >= b[0] else (b, a)
        candidates.append((str([("Human", prompt)]), [prompt], high[1], low[1], (high[0], low[0])))
    return None, candidates


def read(source: str) -> tuple[Counter, list[tuple[str, tuple]]]:
    rules: Counter = Counter()
    candidates = []
    for split in ("train", "test"):
        for line in (SAMPLES / source / f"{split}.jsonl").read_text("ascii").splitlines():
            rule, found = (dialogue_rule if source == "dialogues" else rating_rule)(line)
            rules[rule] += 1
            candidates += [(split, one) for one in found]
    return rules, candidates


def pair_rules(candidates: list[tuple[str, tuple]], max_pairs: int) -> tuple[Counter, list[tuple[str, tuple]]]:
    dropped: Counter = Counter()
    seen, per_prompt, kept = set(), Counter(), []
    for split, (prompt, users, chosen, rejected, scores) in candidates:
        if scores and scores[0] != scores[1] and scores[0] / scores[1] < 1.25:
            dropped["score_ratio"] += 1
        elif scores and scores[0] == scores[1]:
            dropped["equal_score"] += 1
        elif chosen == rejected:
            dropped["identical_responses"] += 1
        elif (prompt, chosen, rejected) in seen:
            dropped["exact_duplicate"] += 1
        else:
            seen.add((prompt, chosen, rejected))
            per_prompt[prompt] += 1
            if per_prompt[prompt] > max_pairs:
                dropped["cap"] += 1
            else:
                kept.append((split, (prompt, users, chosen, rejected)))
    return dropped, kept


def fold(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


@pytest.mark.parametrize("source", ["dialogues", "ratings"])
def test_row_rules_count_what_is_planted(source: str) -> None:
    rules, _ = read(source)
    counts = COUNTS["sources"][f"sample_{source}"]
    assert counts["rows"] == rules.total()
    assert counts["used"] == rules[None]
    assert counts["dropped"] == {rule: rules[rule] for rule in counts["dropped"]}
    assert counts["rows"] == counts["used"] + sum(counts["dropped"].values())


@pytest.mark.parametrize(("source", "max_pairs"), [("dialogues", 2), ("ratings", 4)])
def test_pair_rules_count_what_is_planted(source: str, max_pairs: int) -> None:
    _, candidates = read(source)
    dropped, kept = pair_rules(candidates, max_pairs)
    counts = COUNTS["pair_sets"][f"sample_{source}"]
    assert (counts["candidates"], counts["kept"]) == (len(candidates), len(kept))
    assert counts["dropped"] == {rule: dropped[rule] for rule in counts["dropped"]}
    assert counts["candidates"] == counts["kept"] + sum(counts["dropped"].values())
    assert min(counts["dropped"].values()) > 0, "every pair rule must meet a plant"


def leaks(text: str, prompts: set[str]) -> bool:
    """Whether a text is one of the prompts, or all but one word of a long one, 13 in a row or 70 % of all."""
    if text in prompts:
        return True
    words = "".join(char if char.isalnum() else " " for char in text).split()
    for prompt in prompts:
        others = "".join(char if char.isalnum() else " " for char in prompt).split()
        alike = len({*words} & {*others}) / max(1, len({*words, *others})) >= 0.7
        runs = {tuple(others[i : i + 13]) for i in range(len(others) - 12)}
        if len(others) >= 20 and (alike or any(tuple(words[i : i + 13]) in runs for i in range(len(words) - 12))):
            left = list(others)
            changed = [word for word in words if word not in left or left.remove(word)]
            if min(len(changed), len(left)) <= 1:
                return True
    return False


def test_mixture_rules_count_what_is_planted() -> None:
    sets = {name: pair_rules(read(name)[1], most)[1] for name, most in (("dialogues", 2), ("ratings", 4))}
    first = {(prompt, chosen, rejected) for _, (prompt, _, chosen, rejected) in sets["dialogues"]}
    tests = {fold(users[0]) for kept in sets.values() for split, (_, users, _, _) in kept if split == "test"}
    files = ("rewardbench/filtered.jsonl", "rewardbench2/test.jsonl")
    leaking = {fold(json.loads(line)["prompt"]) for name in files for line in (SAMPLES / name).open()}
    found: Counter = Counter()
    for name, kept in sets.items():
        for split, (prompt, users, chosen, rejected) in kept:
            if name == "ratings" and (prompt, chosen, rejected) in first:
                found["duplicate_across_sources"] += 1
            elif split == "train" and fold(users[0]) in tests:
                found["group_in_test"] += 1
            elif split == "train" and any(leaks(fold(text), leaking) for text in users):
                found["leak"] += 1
            else:
                found[split] += 1
    counts = COUNTS["mixtures"]["quickstart_mixture"]
    found["sample"] = found["train"] - 420
    assert counts["dropped"] == {rule: found[rule] for rule in counts["dropped"]}
    assert (counts["train"], counts["test"]) == (420, found["test"])
    assert counts["candidates"] == sum(len(kept) for kept in sets.values())
    assert counts["kept"] == counts["train"] + counts["test"]
    assert counts["candidates"] == counts["kept"] + sum(counts["dropped"].values())
    assert min(counts["dropped"].values()) > 0
    assert found["train"] >= 1100
    assert counts["test"] >= 350


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("size", [len, lambda text: len(text.split())], ids=["characters", "words"])
def test_length_does_not_tell_the_chosen_reply(split: str, size: Any) -> None:
    longer: Counter = Counter()
    for source, max_pairs in (("dialogues", 2), ("ratings", 4)):
        for side, (_, _, chosen, rejected) in pair_rules(read(source)[1], max_pairs)[1]:
            if side == split:
                longer[(size(chosen) > size(rejected)) - (size(chosen) < size(rejected))] += 1
    assert 0.45 <= longer[1] / longer.total() <= 0.55
    assert 0.45 <= longer[-1] / longer.total() <= 0.55


def test_opposite_labels_of_the_same_replies_are_there() -> None:
    labels = defaultdict(set)
    for _, (prompt, _, chosen, rejected) in pair_rules(read("dialogues")[1], 2)[1]:
        labels[prompt, frozenset((chosen, rejected))].add(chosen)
    assert sum(len(chosen) == 2 for chosen in labels.values()) == 6


def test_prompts_are_about_a_thousand_and_a_part_has_several_turns() -> None:
    prompts = {
        prompt: len(users)
        for source, most in (("dialogues", 2), ("ratings", 4))
        for _, (prompt, users, _, _) in pair_rules(read(source)[1], most)[1]
    }
    assert 900 <= len(prompts) <= 1200
    assert 0.1 < sum(turns > 1 for turns in prompts.values()) / len(prompts) < 0.3
