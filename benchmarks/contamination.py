"""The contamination guard: planted leaks found, near-misses spared, MinHash against exact similarity, and time.

3,000 benchmark prompts come from 32 templates. Leaks are changed copies of them; near-misses are the same templates
with every slot filled otherwise; the other prompts of the mixture ask other things. For comparison: the rule "any
shared 13-gram is a leak", on the same texts.
"""

import multiprocessing
import random
import resource
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import contamination_texts as texts
from rm_workflow.catalog.models import Guard, NearDuplicate
from rm_workflow.database import connect
from rm_workflow.preferences.decontamination.boilerplate import listed_texts
from rm_workflow.preferences.decontamination.hits import find_hits
from rm_workflow.preferences.decontamination.targets import load_targets
from rm_workflow.preferences.decontamination.words import words
from rm_workflow.preferences.sql import dict_rows
from rm_workflow.preferences.text import load_texts

SEED = 20_261_117
NUM_ITEMS = 3_000
NUM_LEAKS = 500
NUM_NEAR_MISSES = 5_000
NUM_OTHERS = 56_000
RESPONSES_OF_PROMPT = 4
WORDS_OF_RESPONSE = 240
MIN_WORDS = 20
ITEM_RESPONSES = 2
# Items whose exact Jaccard similarity with every leak and near-miss is computed.
COMPARED_ITEMS = 400


@dataclass(frozen=True)
class Item:
    """A benchmark prompt, its template and the values of the template's slots."""

    text: str
    template: str
    values: dict[str, str]


def make_items(rng: random.Random) -> list[Item]:
    items: dict[str, Item] = {}
    while len(items) < NUM_ITEMS:
        template = rng.choice(texts.TEMPLATES)
        text, values = texts.fill(template, rng)
        if len(words(text)) >= MIN_WORDS:
            items[text] = Item(text, template, values)
    return list(items.values())


def make_prompts(items: list[Item], rng: random.Random) -> list[tuple[str, str]]:
    """Return (kind, text) of the mixture's prompts."""
    vocabulary = sorted({word for item in items for word in item.text.split(" ")})
    change: dict[str, Callable[[str], str]] = {
        "exact": lambda text: text,
        "case and space changed": lambda text: texts.respaced(text, rng),
        "one word edited": lambda text: texts.one_word_edited(text, rng, vocabulary),
        "sentence order changed": lambda text: texts.reordered(text, rng),
        "truncated": lambda text: texts.truncated(text, rng),
    }
    prompts = []
    leaked = rng.sample([item.text for item in items if texts.num_sentences(item.text) > 1], 5 * NUM_LEAKS)
    for place, (kind, changed) in enumerate(change.items()):
        prompts += [(kind, changed(text)) for text in leaked[place * NUM_LEAKS : (place + 1) * NUM_LEAKS]]
    prompts += [("near-miss", text) for text in make_near_misses(items, rng)]
    prompts += [("other", texts.fill(rng.choice(texts.OTHER_TEMPLATES), rng)[0]) for _ in range(NUM_OTHERS)]
    return prompts


def make_near_misses(items: list[Item], rng: random.Random) -> list[str]:
    """Return texts of the items' templates that differ from their item in every slot and from all items in two or more.

    A text that differs from an item in one slot alone is that item with one word edited.
    """
    of_template: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        of_template[item.template].append(item)
    made: list[str] = []
    while len(made) < NUM_NEAR_MISSES:
        item = rng.choice(items)
        text, values = texts.fill(item.template, rng, item.values)
        differing = (sum(values[slot] != other.values[slot] for slot in values) for other in of_template[item.template])
        if min(differing) >= 2:
            made.append(text)
    return made


def make_responses(num: int, rng: random.Random) -> list[str]:
    """Return texts of words drawn as rarely and as often as in English (Zipf), so that long runs do not repeat."""
    known = sorted({word for template in texts.TEMPLATES + texts.OTHER_TEMPLATES for word in words(template)})
    rare = ["".join(rng.choices("aeioulnrstdmpkbgvz", k=rng.randint(3, 11))) for _ in range(30_000)]
    vocabulary = rng.sample(known, len(known)) + rare
    weights = list(accumulate(1 / (rank + 3) for rank in range(len(vocabulary))))
    stops = [rng.choice(["", "", "", "", "", "", "", ",", ".", ".\n\n"]) for _ in range(5_000)]
    drawn = rng.choices(vocabulary, cum_weights=weights, k=WORDS_OF_RESPONSE * 5_000)
    ends = [word + rng.choice(stops) for word in drawn]
    made = []
    for _ in range(num):
        start, length = rng.randrange(len(ends) - 600), rng.randint(40, 2 * WORDS_OF_RESPONSE)
        other = rng.randrange(len(ends) - 600)
        drawn = ends[start : start + length]
        # Every ninth word from elsewhere: a run of 13 words that another response has too is rare.
        drawn[::9] = ends[other : other + len(drawn[::9])]
        made.append(" ".join(drawn))
    return made


def write(folder: Path, items: list[Item], prompts: list[tuple[str, str]], rng: random.Random) -> None:
    """Write a raw folder, its pairs and a benchmark in the project's tables."""
    (folder / "raw").mkdir()
    (folder / "bench").mkdir()
    asked = {f"{number:032x}": text for number, (_, text) in enumerate(prompts)}
    shown = [f"{number:032x}" for number in range(NUM_ITEMS)]
    made = iter(make_responses(len(asked) * RESPONSES_OF_PROMPT + NUM_ITEMS * ITEM_RESPONSES, rng))
    responses = [(f"{prompt}{n}", prompt, next(made)) for prompt in asked for n in range(RESPONSES_OF_PROMPT)]
    answers = [(f"{item}{n}", item, next(made)) for item in shown for n in range(ITEM_RESPONSES)]
    _write_texts(folder / "raw", list(asked), list(asked.values()), responses)
    _write_texts(folder / "bench", shown, [item.text for item in items], answers)
    table = {
        "item_id": shown,
        "prompt_id": shown,
        "response_ids": [[f"{item}{n}" for n in range(ITEM_RESPONSES)] for item in shown],
        "subset": ["made"] * NUM_ITEMS,
        "meta": ["{}"] * NUM_ITEMS,
    }
    pq.write_table(pa.table(table), folder / "bench" / "items.parquet")
    sides = [(response[0], response[1]) for response in responses]
    pairs = [
        (prompt, sides[first + a][0], sides[first + b][0])
        for first in range(0, len(sides), RESPONSES_OF_PROMPT)
        for prompt in (sides[first][1],)
        for a in range(RESPONSES_OF_PROMPT)
        for b in range(a + 1, RESPONSES_OF_PROMPT)
    ]
    columns = dict(zip(("prompt_id", "chosen_id", "rejected_id"), map(list, zip(*pairs, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "pairs.parquet")


def _write_texts(folder: Path, ids: list[str], asked: list[str], responses: list[tuple[str, str, str]]) -> None:
    messages = [[{"role": "user", "content": text}] for text in asked]
    pq.write_table(pa.table({"prompt_id": ids, "messages": messages}), folder / "prompts.parquet")
    names = ("response_id", "prompt_id", "text")
    table = pa.table(dict(zip(names, map(list, zip(*responses, strict=True)), strict=True)))
    pq.write_table(table, folder / "responses.parquet", compression="zstd")
    pq.write_table(table.slice(0, 0), folder / "occurrences.parquet")


def guarded(folder: Path) -> tuple[list[dict[str, object]], float, float]:
    """Return the hits, the seconds that the guard took and the peak memory of this process in GiB."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, connect(Path(scratch)) as con:
        load_texts(con, [folder / "raw"])
        con.execute(f"create view train_pairs as from read_parquet('{folder / 'pairs.parquet'}')")
        load_targets(con, {"made": folder / "bench"}, {})
        find_hits(con, Guard(), listed_texts([]))
        hits = dict_rows(con, "from hits order by all")
    return hits, time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def any_13_gram(items: list[Item], prompts: list[tuple[str, str]]) -> set[int]:
    """Return the numbers of the prompts that share any 13-gram with any item."""
    known = {gram for item in items for gram in grams(item.text)}
    return {number for number, (_, text) in enumerate(prompts) if not known.isdisjoint(grams(text))}


def grams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[start : start + 13]) for start in range(len(found) - 12)}


def minhash_recall(items: list[Item], prompts: list[tuple[str, str]]) -> tuple[int, int]:
    """Return how many pairs reach the threshold exactly, and how many of them share a MinHash band."""
    import numpy as np

    from rm_workflow.preferences.decontamination.minhash import bands
    from rm_workflow.preferences.decontamination.words import hash_words

    near = NearDuplicate()
    sides = [[item.text for item in items[:COMPARED_ITEMS]], [text for kind, text in prompts if kind != "other"]]
    sets = [[set(words(text)) for text in side] for side in sides]
    banded = [[set(row) for row in bands(hash_words(side), np.arange(len(side)), near).tolist()] for side in sides]
    reaching = found = 0
    for a, bands_a in zip(sets[0], banded[0], strict=True):
        for b, bands_b in zip(sets[1], banded[1], strict=True):
            shared = len(a & b)
            if shared >= near.threshold * (len(a) + len(b) - shared):
                reaching += 1
                found += not bands_a.isdisjoint(bands_b)
    return reaching, found


def main() -> None:
    """Print recall by kind, false positives, MinHash recall, time and memory."""
    rng = random.Random(SEED)
    items = make_items(rng)
    prompts = make_prompts(items, rng)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, items, prompts, rng)
        # In a process of its own, whose memory is the guard's alone.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            hits, seconds, peak = process.submit(guarded, folder).result()
        size = (folder / "raw" / "responses.parquet").stat().st_size
    hit = {int(str(row["prompt_id"]), 16) for row in hits if row["side"] == "prompt"}
    rival = any_13_gram(items, prompts)
    total = Counter(kind for kind, _ in prompts)
    found = Counter(prompts[number][0] for number in hit)
    collided = Counter(prompts[number][0] for number in rival)
    print(
        f"contamination: {len(prompts):,} prompts against {NUM_ITEMS:,} benchmark prompts of {MIN_WORDS} words or more"
    )
    print(f"  {'prompts':26s} {'number':>7s} {'flagged':>8s} {'any shared 13-gram':>20s}")
    for kind in total:
        print(f"  {kind:26s} {total[kind]:7,d} {found[kind] / total[kind]:8.2%} {collided[kind] / total[kind]:20.2%}")
    for rule, flagged in (("guard", found), ("any shared 13-gram", collided)):
        wrong = flagged["near-miss"] + flagged["other"]
        print(f"  precision, {rule}: {1 - wrong / sum(flagged.values()):.4f}")
    reaching, shared = minhash_recall(items, prompts)
    print(f"  MinHash: {shared:,} of {reaching:,} pairs at or above the Jaccard threshold share a band")
    num_responses = len(prompts) * RESPONSES_OF_PROMPT
    print(f"  {seconds:.1f} s with {num_responses:,} responses ({size / 2**20:.0f} MiB), peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
