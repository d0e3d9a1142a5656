"""What stands out in the measures of an audit, in sentences; of a share only where its interval supports it."""

from collections.abc import Iterator, Mapping
from typing import Any

DUPLICATE_RULES = ("exact_duplicate", "near_duplicate", "duplicate_across_sources")
CONTRADICTION_RULES = ("contradictory", "cycle")
# Shares below these are not worth a sentence.
NOTED_DROPS = 0.01
NOTED_OVERLAP = 0.01
NOTED_SHARE_OF_MIXTURE = 0.6
SHOWN_MARKERS = 3

Finding = dict[str, str]


def findings(facts: Mapping[str, Any]) -> list[Finding]:
    """Return ``{"about", "name", "sentence"}`` for each thing of note, licences first.

    Args:
        facts: what ``audit.build_audit`` measured.
    """
    sources: Mapping[str, Mapping[str, Any]] = facts["sources"]
    return [
        *_licences(facts["licences"]),
        *(found for name, one in sources.items() for found in _of_source(name, one, facts)),
        *_conflicts(facts["conflicts"]),
        *_overlaps(facts["overlap"]),
    ]


def _finding(about: str, name: str, sentence: str) -> Finding:
    return {"about": about, "name": name, "sentence": sentence}


def _licences(licences: Mapping[str, Any]) -> Iterator[Finding]:
    if licences["commercial_use"] != "yes":
        yield _finding("licence", licences["commercial_use"], licences["summary"])
    unstated = licences["generators_not_stated"]
    if unstated:
        sentence = f"who wrote the responses of {', '.join(unstated)} is not stated (generators in sources.yaml)"
        yield _finding("licence", "generators", sentence)


def _of_source(name: str, one: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[Finding]:
    share = one["pairs"] / facts["pairs"]
    if share >= NOTED_SHARE_OF_MIXTURE and len(facts["sources"]) > 1:
        yield _finding("share", name, f"{name} gives {_percent(share)} of the pairs")
    yield from _length(name, one["length"])
    yield from _repeats(name, one)
    yield from _refusals(name, one["refusals"])
    yield from _markers(name, one["marker_lean"], facts["markers"])
    yield from _phrase(name, one["phrase"])


def _length(name: str, length: Mapping[str, Any]) -> Iterator[Finding]:
    longer, pick = length["chosen_longer"], length["pick_longer"]
    if pick["ci_low"] > 0.5:
        sentence = (
            f"chosen is the longer one in {_interval(longer)} of pairs of {name}: a model that counts words gets "
            f"{_percent(pick['share'])} of them right"
        )
    elif pick["ci_high"] < 0.5:
        sentence = (
            f"chosen is the longer one in only {_interval(longer)} of pairs of {name}: a model that picks the shorter "
            f"reply gets {_percent(1 - pick['share'])} of them right"
        )
    else:
        return
    yield _finding("length", name, sentence)


def _repeats(name: str, one: Mapping[str, Any]) -> Iterator[Finding]:
    for rules, what in ((DUPLICATE_RULES, "duplicates"), (CONTRADICTION_RULES, "contradictions")):
        number = sum(one["dropped"].get(rule, 0) for rule in rules)
        if number >= NOTED_DROPS * one["candidates"]:
            sentence = f"{_of(number, one['candidates'])} candidates of {name} were dropped as {what}"
            yield _finding(what, name, sentence)
    if one["repeated_pairs"]:
        sentence = f"{_of(one['repeated_pairs'], one['pairs'])} pairs of {name} repeat another but for case and spaces"
        yield _finding("duplicates", name, sentence)
    if one["contradicting_pairs"]:
        number = _of(one["contradicting_pairs"], one["pairs"])
        sentence = f"{number} pairs of {name} stand beside one with the opposite label, which cannot be learnt"
        yield _finding("contradictions", name, sentence)
    if one["same_text"]:
        sentence = f"{_of(one['same_text'], one['pairs'])} pairs of {name} differ in nothing but case and spaces"
        yield _finding("duplicates", name, sentence)


def _refusals(name: str, refusals: Mapping[str, Any]) -> Iterator[Finding]:
    lean = refusals["lean"]
    if lean is None or lean["ci_low"] <= 0.5 <= lean["ci_high"]:
        return
    verb = "wins over" if lean["ci_low"] > 0.5 else "loses against"
    share = _interval(lean) if lean["ci_low"] > 0.5 else _interval(_turned(lean))
    sentence = (
        f"a mere refusal {verb} an answer in {share} of the {lean['n']:,} pairs of {name} that have one on one side"
    )
    yield _finding("refusals", name, sentence)


def _markers(name: str, lean: Mapping[str, Any] | None, markers: list[Mapping[str, Any]]) -> Iterator[Finding]:
    here = [marker for marker in markers if marker["source"] == name]
    if here:
        most = sorted(here, key=lambda marker: (-marker["pairs"], marker["marker"]))[:SHOWN_MARKERS]
        told = ", ".join(f"{marker['marker']!r} in {marker['pairs']:,} {marker['side']} texts" for marker in most)
        sentence = f"texts of {name} hold marks of a chat template: {told}; for instance pair {most[0]['pair_ids'][0]}"
        yield _finding("markers", name, sentence)
    if lean and not lean["ci_low"] <= 0.5 <= lean["ci_high"]:
        side, share = ("chosen", lean) if lean["ci_low"] > 0.5 else ("rejected", _turned(lean))
        sentence = (
            f"of the {lean['n']:,} pairs of {name} with such a mark on one side alone it is the {side} side in "
            f"{_interval(share)}: a model can learn the mark"
        )
        yield _finding("markers", name, sentence)


def _phrase(name: str, found: Mapping[str, Any] | None) -> Iterator[Finding]:
    if found and found["ci_low"] > found["expected"]:
        sentence = (
            f"{found['phrase']!r} stands in the chosen reply alone for {found['chosen']:,} groups of prompts of {name} "
            f"and in the rejected one alone for {found['rejected']:,}: read some, a planted phrase looks like this"
        )
        yield _finding("phrases", name, sentence)


def _conflicts(conflicts: Mapping[str, Any]) -> Iterator[Finding]:
    for between in conflicts["between"]:
        one, other = between["source"], between["other_source"]
        number = between["conflicts"]
        sentence = f"{one} and {other} label {number:,} {'pair' if number == 1 else 'pairs'} in opposite ways"
        yield _finding("conflicts", one, sentence)


def _overlaps(overlap: list[Mapping[str, Any]]) -> Iterator[Finding]:
    whole = {(row["what"], row["source"]): row["shared"] for row in overlap if row["source"] == row["other_source"]}
    names = {"first_turns": "first user turns", "responses": "responses"}
    for row in overlap:
        one, other, what = row["source"], row["other_source"], row["what"]
        smaller = min(whole[what, one], whole[what, other])
        if one < other and row["shared"] >= NOTED_OVERLAP * smaller:
            share = _percent(row["shared"] / smaller)
            sentence = f"{one} and {other} share {row['shared']:,} {names[what]}, {share} of those of the smaller one"
            yield _finding("overlap", one, sentence)


def _turned(share: Mapping[str, float]) -> dict[str, float]:
    return {"share": 1 - share["share"], "ci_low": 1 - share["ci_high"], "ci_high": 1 - share["ci_low"]}


def _interval(share: Mapping[str, float]) -> str:
    return f"{_percent(share['share'])} ({100 * share['ci_low']:.0f} to {100 * share['ci_high']:.0f})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _of(number: int, total: int) -> str:
    return f"{number:,} of {total:,}"
