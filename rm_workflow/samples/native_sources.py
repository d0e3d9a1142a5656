"""The six sources of RM-Mistral-7B beside HH-RLHF, each in its native schema, with what is planted across them."""

import dataclasses
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rm_workflow.samples import (
    capybara,
    helpsteer,
    native_accounting,
    orca,
    pku_safe_rlhf_30k,
    plants,
    shp,
    ultrafeedback,
)
from rm_workflow.samples.benchmarks import Item
from rm_workflow.samples.native_rows import Block, Given, NativeRow, NativeSource, Rated, new_task, two_replies
from rm_workflow.samples.skills import Task, TaskMaker, stream

# In the order in which the recipe rm_mistral_7b mixes them.
SOURCES = (
    shp.SOURCE,
    ultrafeedback.SOURCE,
    helpsteer.SOURCE,
    capybara.SOURCE,
    orca.SOURCE,
    pku_safe_rlhf_30k.SOURCE,
)
FILES = tuple(f"{source.name}/{file}" for source in SOURCES for file in source.files)

# Train pairs that the counts of the mixture are told for.
TRAIN_PAIRS = 500
# Of a source that is read in two ways the mixture takes this one.
MIXED_READINGS = ("shp", "ultrafeedback", "helpsteer", "capybara", "orca", "pku_safe_rlhf_30k_safer")

SHP_TRAIN, SHP_TEST = "shp/explainlikeimfive/train.json", "shp/explainlikeimfive/test.json"
ULTRAFEEDBACK = "ultrafeedback/evol_instruct.jsonl"
HELPSTEER_TRAIN, HELPSTEER_TEST = "helpsteer/train.jsonl", "helpsteer/validation.jsonl"
CAPYBARA, ORCA = "capybara/train.jsonl", "orca/train.jsonl"
PKU_TRAIN, PKU_TEST = "pku_safe_rlhf_30k/round0/train.jsonl", "pku_safe_rlhf_30k/round0/test.jsonl"

# Two files that share a pair; the source that stands first in the mixture keeps it.
SHARED_PAIRS = (
    (ULTRAFEEDBACK, HELPSTEER_TRAIN),
    (SHP_TRAIN, PKU_TRAIN),
    (CAPYBARA, ORCA),
    (HELPSTEER_TRAIN, PKU_TRAIN),
    (HELPSTEER_TEST, PKU_TEST),
)
NUM_SHARED = 2

# A train file, and a test file one of whose prompts stands in it too, other_spelling: equal after normalising only.
GROUPS_IN_TEST = (
    ("group_in_test_same_prompt", HELPSTEER_TRAIN, HELPSTEER_TEST),
    ("group_in_test_same_prompt", PKU_TRAIN, PKU_TEST),
    ("group_in_test_same_prompt", SHP_TRAIN, SHP_TEST),
    ("group_in_test_other_spelling", HELPSTEER_TRAIN, HELPSTEER_TEST),
    ("group_in_test_other_spelling", PKU_TRAIN, PKU_TEST),
    ("group_in_test_other_source", ULTRAFEEDBACK, HELPSTEER_TEST),
    ("group_in_test_other_source", CAPYBARA, PKU_TEST),
    ("group_in_test_other_source", ORCA, PKU_TEST),
    # A post is a group of its own: its prompt is found in another source as it stands.
    ("group_in_test_other_source", SHP_TRAIN, HELPSTEER_TEST),
    ("group_in_test_other_source", ULTRAFEEDBACK, SHP_TEST),
)
LEAKING = (SHP_TRAIN, ULTRAFEEDBACK, HELPSTEER_TRAIN, CAPYBARA, ORCA, PKU_TRAIN)

Files = dict[str, list[NativeRow]]


def of_file(file: str) -> NativeSource:
    """Return the source of a file, which is named relative to ``data/samples``."""
    return next(source for source in SOURCES if file.startswith(f"{source.name}/"))


def build(maker: TaskMaker, items: Sequence[Item]) -> Files:
    """Return the rows of all files: plain ones, plants, plants that refer to others, one shuffle, repeats.

    Args:
        maker: the one that made the rest of the sample, so that no prompt of it comes again.
        items: benchmark items whose prompts may be planted in train files.
    """
    blocks = {
        f"{source.name}/{file}": list(_blocks(source, file, maker)) for source in SOURCES for file in source.files
    }
    _plant_shared_pairs(blocks, maker)
    _plant_groups_in_test(blocks)
    _plant_leaks(blocks, items)
    return {file: _in_order(file, of_one) for file, of_one in blocks.items()}


def _blocks(source: NativeSource, file: str, maker: TaskMaker) -> Iterator[Block]:
    plan = source.files[file]
    for number in range(plan.plain):
        yield source.plain(maker, stream(source.name, file, number), number, file)
    for plant, count in plan.plants.items():
        for number in range(count):
            yield source.plants[plant](maker, stream(source.name, file, plant, number), number, file)


def _add(
    blocks: dict[str, list[Block]], file: str, prompt: str, task: Task, replies: tuple[str, str], plant: str
) -> None:
    source = of_file(file)
    rng = stream("native", plant, file, prompt)
    blocks[file].append(source.from_pair(prompt, task, replies, rng, file.removeprefix(f"{source.name}/"), plant))


def _plant_shared_pairs(blocks: dict[str, list[Block]], maker: TaskMaker) -> None:
    for files in SHARED_PAIRS:
        for number in range(NUM_SHARED):
            rng = stream("native", "duplicate_across_sources", *files, number)
            task = new_task(maker, rng, number)
            replies = two_replies(task, rng, number)
            for file in files:
                _add(blocks, file, task.prompt, task, replies, "duplicate_across_sources")


def _plant_groups_in_test(blocks: dict[str, list[Block]]) -> None:
    unused = {test: iter([block[0] for block in blocks[test] if _is_plain(block)]) for _, _, test in GROUPS_IN_TEST}
    for number, (plant, train, test) in enumerate(GROUPS_IN_TEST):
        row = next(unused[test])
        assert row.task is not None
        prompt = row.task.prompt
        spelled = plants.respelled(prompt, number) if plant.endswith("spelling") else prompt
        _add(blocks, train, spelled, row.task, _other_replies(row.task, _texts(row), train), plant)
    _plant_edited_post(blocks, next(unused[SHP_TEST]))


def _plant_edited_post(blocks: dict[str, list[Block]], test: NativeRow) -> None:
    """Add a train row of the same post with other words: the post is the group."""
    task, plant = test.task, "group_in_test_edited_post"
    assert task is not None
    rng = stream("native", plant)
    prompt, replies = f"{task.prompt} Edit: thank you all.", two_replies(task, rng, 0)
    row = shp.row(prompt, task, replies, (20, 5), rng, "explainlikeimfive/train.json", plant, shp.post(task.prompt))
    blocks[SHP_TRAIN].append([row])


def _is_plain(block: Block) -> bool:
    return block[0].plant is None and block[0].task is not None


def _texts(row: NativeRow) -> set[str]:
    meaning = next(iter(row.means.values()))
    if isinstance(meaning, Given):
        return {meaning.chosen, meaning.rejected}
    return {text for text, _ in meaning.replies} if isinstance(meaning, Rated) else set()


def _other_replies(task: Task, taken: set[str], file: str) -> tuple[str, str]:
    for number in range(100):
        replies = two_replies(task, stream("native", "other", file, task.prompt, number), number)
        if taken.isdisjoint(replies):
            return replies
    raise RuntimeError(f"too few different replies to: {task.prompt}")


def _plant_leaks(blocks: dict[str, list[Block]], items: Sequence[Item]) -> None:
    """Give each source train rows with the prompt of a benchmark item, in another spelling and as it stands."""
    usable = [item.task for item in items if item.task and item.task.takes_remarks]
    files = (*LEAKING, *LEAKING)
    for number, (file, task) in enumerate(zip(files, usable, strict=False)):
        prompt = plants.respelled(task.prompt, number) if number < len(LEAKING) else task.prompt
        _add(blocks, file, prompt, task, two_replies(task, stream("native", "leak", number), number), "leak")
    in_test = usable[len(files)]
    replies = two_replies(in_test, stream("native", "benchmark_prompt_in_test"), 0)
    _add(blocks, HELPSTEER_TEST, in_test.prompt, in_test, replies, "benchmark_prompt_in_test")


def _in_order(file: str, blocks: list[Block]) -> list[NativeRow]:
    rng = stream("native", file, "order")
    rng.shuffle(blocks)
    source = of_file(file)
    repeats = source.files[file.removeprefix(f"{source.name}/")].repeats
    return _with_repeats([row for block in blocks for row in block], repeats, rng)


def _with_repeats(rows: list[NativeRow], count: int, rng: random.Random) -> list[NativeRow]:
    """Return the rows with some of the unplanted ones standing there once more, further down."""
    rows = list(rows)
    for row in rng.sample([row for row in rows if row.plant is None], count):
        place = rng.randrange(rows.index(row) + 1, len(rows) + 1)
        rows.insert(place, dataclasses.replace(row, plant="exact_duplicate"))
    return rows


def manifest(files: Mapping[str, Sequence[NativeRow]], benchmark_prompts: Sequence[str]) -> dict[str, Any]:
    """Return what the data stages must count, the recipe that it holds for, and what was planted where."""
    found = {
        reading: native_accounting.of_reading(source, _of_source(source, files), reading)
        for source in SOURCES
        for reading in source.readings
    }
    names = {reading: f"sample_{native_accounting.PAIR_SETS[reading]}" for reading in found}
    mixed = [found[reading] for reading in MIXED_READINGS]
    return {
        "recipe": {
            "extends": "rm_mistral_7b_mini",
            "mixture": {
                "pair_sets": [names[reading] for reading in MIXED_READINGS],
                "sample": {"train_pairs": TRAIN_PAIRS},
            },
        },
        "counts": {
            "sources": {f"sample_{reading}": one.source for reading, one in found.items()},
            "pair_sets": {names[reading]: one.pair_set.counts for reading, one in found.items()},
            "mixture": native_accounting.mixture(mixed, benchmark_prompts, TRAIN_PAIRS),
        },
        "planted": _planted(files),
    }


def _of_source(source: NativeSource, files: Mapping[str, Sequence[NativeRow]]) -> dict[str, Sequence[NativeRow]]:
    return {file: files[f"{source.name}/{file}"] for file in source.files}


def _planted(files: Mapping[str, Sequence[NativeRow]]) -> dict[str, dict[str, list[int]]]:
    """Return plant -> file -> line numbers."""
    found: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for file, rows in files.items():
        for number, row in enumerate(rows, start=1):
            if row.plant:
                found[row.plant][file].append(number)
    return {plant: dict(of_files) for plant, of_files in sorted(found.items())}
