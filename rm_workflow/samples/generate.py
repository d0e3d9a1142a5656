"""Builds the whole sample and writes its files; the same bytes every time.

Raise ``SEED`` in ``skills.py`` to draw everything anew.
"""

import json
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rm_workflow.keys import content_id, file_sha256
from rm_workflow.samples import accounting, benchmarks, dialogues, native_sources, plants, ratings, solutions
from rm_workflow.samples.benchmarks import Item
from rm_workflow.samples.native_rows import NativeRow
from rm_workflow.samples.rows import Row, to_line
from rm_workflow.samples.skills import TaskMaker, normalised, stream
from rm_workflow.settings import Settings

FILES = (
    "dialogues/train.jsonl",
    "dialogues/test.jsonl",
    "ratings/train.jsonl",
    "ratings/test.jsonl",
    "rewardbench/filtered.jsonl",
    "rewardbench2/test.jsonl",
    *native_sources.FILES,
    *solutions.FILES,
    "planted.json",
)

# Rows with a new prompt and nothing planted.
NUM_PLAIN = {
    ("dialogues", "train"): 520,
    ("dialogues", "test"): 225,
    ("ratings", "train"): 160,
    ("ratings", "test"): 42,
}


@dataclass(frozen=True)
class Sample:
    """Everything that is written: rows by (source, split) or by file, and the items of the two benchmarks."""

    rows: dict[tuple[str, str], list[Row]]
    native: dict[str, list[NativeRow]]
    rewardbench: list[Item]
    rewardbench2: list[Item]


def build() -> Sample:
    """Build the sample: plain rows first, then the plants that refer to them, then one shuffle a file."""
    maker = TaskMaker()
    items, items2 = benchmarks.rewardbench(maker), benchmarks.rewardbench2(maker)
    rows = {
        (source, split): (dialogues if source == "dialogues" else ratings).plain(maker, split, count)
        for (source, split), count in NUM_PLAIN.items()
    }
    for split in ("train", "test"):
        shared = plants.shared_ratings(maker, split)
        rows["ratings", split] += shared + plants.rating_pairs(maker, split) + plants.broken_ratings(maker, split)
        rows["dialogues", split] += plants.shared_dialogues(shared)
        rows["dialogues", split] += plants.dialogue_pairs(maker, split) + plants.broken_dialogues(maker, split)
    _plant_mixture_rules(rows, items, items2, maker)
    ordered = {}
    for (source, split), of_file in rows.items():
        stream(source, split, "order").shuffle(of_file)
        ordered[source, split] = plants.with_repeats(of_file, source, split)
    # Made last and from other items, so that the rows of the other sources stay as they are.
    native = native_sources.build(maker, items[4::9] + items2[4::9])
    return Sample(ordered, native, items, items2)


def _plant_mixture_rules(
    rows: dict[tuple[str, str], list[Row]], items: list[Item], items2: list[Item], maker: TaskMaker
) -> None:
    """Add train rows whose prompt stands in a test file or in a benchmark."""
    tests = [row for row in rows["dialogues", "test"] if row.plant is None and len(row.prompt) == 1]
    tests = [row for row in tests if row.task and row.task.takes_remarks]
    rated_tests = [row for row in rows["ratings", "test"] if row.plant is None]
    usable = [item for item in items[::9] + items2[::9] if item.task and item.task.takes_remarks]
    stream("leak", "items").shuffle(usable)
    num_leaks = plants.NUMBERS["dialogues", "train"]["leak"] + plants.NUMBERS["ratings", "train"]["leak"]
    num_test = plants.NUMBERS["dialogues", "test"]["benchmark_prompt_in_test"]
    for added in (plants.group_in_test(tests, rated_tests, maker), plants.leaks(usable[:num_leaks])):
        rows["dialogues", "train"] += added[0]
        rows["ratings", "train"] += added[1]
    rows["dialogues", "test"] += plants.benchmark_prompts_in_test(usable[num_leaks : num_leaks + num_test])


def manifest(sample: Sample) -> dict[str, Any]:
    """Return the counts that the data stages must find, and what was planted where (1-based lines)."""
    pair_sets = {source: accounting.pair_set(sample.rows, source) for source in ("dialogues", "ratings")}
    prompts = [item.row["prompt"] for item in sample.rewardbench + sample.rewardbench2]
    return {
        "counts": {
            "sources": {f"sample_{name}": accounting.source_counts(sample.rows, name) for name in pair_sets},
            "pair_sets": {f"sample_{name}": one.counts for name, one in pair_sets.items()},
            "mixtures": {"quickstart_mixture": accounting.mixture(list(pair_sets.values()), prompts)},
        },
        "planted": {**_planted_rows(sample), "leaked_items": _leaked_items(sample)},
        "six_sources": native_sources.manifest(sample.native, prompts),
    }


def _planted_rows(sample: Sample) -> dict[str, dict[str, list[int]]]:
    """Return plant -> file -> line numbers."""
    found: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for (source, split), rows in sample.rows.items():
        for number, row in enumerate(rows, start=1):
            if row.plant:
                found[row.plant][f"{source}/{split}.jsonl"].append(number)
    return {plant: dict(files) for plant, files in sorted(found.items())}


def _leaked_items(sample: Sample) -> dict[str, list[int]]:
    """Return benchmark file -> lines whose prompt stands in a train file."""
    planted = {
        normalised(row.prompt[0][1])
        for (_, split), rows in sample.rows.items()
        for row in rows
        if row.plant == "leak" and split == "train"
    }
    of_files = {"rewardbench/filtered.jsonl": sample.rewardbench, "rewardbench2/test.jsonl": sample.rewardbench2}
    return {
        file: [line for line, item in enumerate(items, start=1) if normalised(item.row["prompt"]) in planted]
        for file, items in of_files.items()
    }


def write(folder: Path) -> None:
    """Write all ``FILES`` under ``folder``, over what stands there."""
    sample = build()
    texts = {
        f"{source}/{split}.jsonl": _lines(row.line for row in rows) for (source, split), rows in sample.rows.items()
    }
    texts |= {file: _lines(row.line for row in rows) for file, rows in sample.native.items()}
    texts |= {file: _lines(lines) for file, lines in solutions.build().items()}
    texts["rewardbench/filtered.jsonl"] = _lines(to_line(item.row) for item in sample.rewardbench)
    texts["rewardbench2/test.jsonl"] = _lines(to_line(item.row) for item in sample.rewardbench2)
    texts["planted.json"] = _readable(manifest(sample))
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("ascii"))


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _readable(value: dict[str, Any]) -> str:
    """Return JSON with an indent, lists of numbers on one line."""
    text = json.dumps(value, indent=2, ensure_ascii=True)
    return re.sub(r"\[[\d,\s]*\]", lambda match: " ".join(match[0].split()), text) + "\n"


def folder(settings: Settings) -> Path:
    """Return the folder with the sample's files: the project's own, else a copy written under the cache."""
    if settings.project and _is_complete(settings.project / "data" / "samples"):
        return settings.project / "data" / "samples"
    code = [file_sha256(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    copy = settings.cache / "samples" / content_id(code)
    if not _is_complete(copy):
        _write_beside(copy)
    return copy


def _is_complete(place: Path) -> bool:
    return all((place / name).is_file() for name in FILES)


def _write_beside(target: Path) -> None:
    """Write to a new folder and rename it, so that another process sees all files or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as staging:
        write(Path(staging) / "samples")
        shutil.rmtree(target, ignore_errors=True)
        try:
            (Path(staging) / "samples").rename(target)
        except OSError:
            # Another process was faster; its bytes are the same.
            if not _is_complete(target):
                raise
