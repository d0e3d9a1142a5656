"""Hostile names, files and rows through the real command line: one sentence, no code run, nothing beside the home."""

import json
import time
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from rm_workflow.catalog import loading
from rm_workflow.evaluation.score_file import read_lines
from rm_workflow_tests import hostile
from rm_workflow_tests.cli.conftest import SOURCES, Answer, Project, lines
from rm_workflow_tests.hub.hub_server import FakeHub

Rmw = Callable[..., Answer]

# Where a name of a person's stands on the command line.
VERBS = {
    "plan": ("plan", "NAME"),
    "plan a file": ("plan", "./NAME.yaml"),
    "run": ("run", "NAME"),
    "run up to": ("run", "toy", "--until", "NAME"),
    "run with": ("run", "toy", "--set", "NAME"),
    "run with a pair set": ("run", "toy", "--set", "mixture.pair_sets=NAME"),
    "counts": ("counts", "NAME"),
    "audit": ("audit", "NAME"),
    "overlap": ("overlap", "NAME"),
    "show": ("show", "NAME"),
    "show a version": ("show", "raw_toy@NAME"),
    "lineage": ("lineage", "NAME"),
    "trace": ("trace", "NAME"),
    "trace a row": ("trace", "NAME:1"),
    "score": ("score", "NAME", "rows/test.jsonl", "-o", "-"),
    "score a revision": ("score", "hub:org/name@NAME", "rows/test.jsonl", "-o", "-"),
    "score a model of the hub": ("score", "hub:NAME/name", "rows/test.jsonl", "-o", "-"),
    "score a file": ("score", "toy_checkpoint", "NAME", "-o", "-"),
    "evaluate": ("evaluate", "NAME", "--benchmark", "toy"),
    "evaluate on": ("evaluate", "toy_checkpoint", "--benchmark", "NAME"),
    "compare": ("compare", "NAME", "NAME"),
    "leaderboard": ("leaderboard", "--benchmark", "NAME"),
    "aggregate": ("aggregate", "pairs", "NAME"),
    "aggregate a benchmark": ("aggregate", "NAME", "rows/test.jsonl"),
    "card": ("card", "NAME"),
    "push": ("push", "NAME", "org/name", "--dry-run"),
    "report": ("report", "NAME"),
    "funnel": ("funnel", "NAME"),
    "history": ("history", "NAME", "--plot", "plot.png"),
    "history of a source": ("history", "--source", "NAME", "--plot", "plot.png"),
    "diff": ("diff", "NAME", "NAME"),
    "shared": ("shared", "NAME", "NAME"),
    "shared versions": ("shared", "raw_toy@NAME", "raw_toy@NAME"),
    "worst": ("worst", "NAME"),
    "verify": ("verify", "NAME"),
    "gc": ("gc", "--keep", "NAME"),
    "sources check": ("sources", "check", "NAME"),
    "sources update": ("sources", "update", "NAME"),
    "sources add": ("sources", "add", "NAME"),
    "sources add as": ("sources", "add", "rows/train.jsonl", "--name", "NAME"),
}


@pytest.fixture
def small(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    fake_hub: FakeHub,
    waits: list[float],
) -> Project:
    """A project whose catalogue is its own alone, which loads fast, with a mirror and a hub that has nothing."""
    monkeypatch.setattr(loading, "BUILT_IN", tmp_path_factory.mktemp("built_in"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(project.home / "cache"))
    monkeypatch.setenv("RMW_HUB_MIRROR", str(project.folder / "mirror"))
    (project.folder / "mirror/org/name").mkdir(parents=True)
    (project.folder / "outside.jsonl").write_text(lines(range(9)))
    # Without a folder to index, the questions would end before a name is looked at.
    project.home.mkdir()
    return project


def refused(answer: Answer) -> None:
    """Fail where an answer is not one sentence for a person with the code of bad input or of wrong usage."""
    assert answer.code in (1, 2), (answer.code, answer.out, answer.err)
    assert answer.error.isprintable(), answer.error
    assert "fault of rmw itself" not in answer.error
    assert "Traceback" not in answer.out + answer.err


# What these names become is a name like any other: a dash is read as an underscore, and the file lends its own.
MADE_GOOD = {("sources add as", "a dash"), ("sources add as", "nothing")}


@pytest.mark.parametrize("verb", VERBS)
def test_a_hostile_name_is_refused_and_does_nothing(small: Project, rmw: Rmw, verb: str):
    # An entry is added under a lock in the folder of the catalogue.
    own = [small.home, *([small.folder / "catalog"] if verb.startswith("sources add") else [])]
    for title, name in hostile.NAMES.items():
        if (verb, title) in MADE_GOOD:
            continue
        with hostile.fence(small.folder, *own):
            refused(rmw(*(word.replace("NAME", name) for word in VERBS[verb])))
    assert small.published() == []
    assert (small.folder / "catalog/sources.yaml").read_text() == SOURCES.replace("FILE", "train.jsonl")


@pytest.mark.parametrize("file", ["recipes/toy.yaml", "sources.yaml", "pair_sets.yaml"])
@pytest.mark.parametrize("text", hostile.YAML)
def test_hostile_yaml_is_refused_with_its_file_and_runs_nothing(small: Project, rmw: Rmw, file: str, text: str):
    path = small.folder / "catalog" / file
    indent = "" if file.startswith("recipes") else "  "
    path.write_text(path.read_text() + "".join(f"{indent}{line}\n" for line in hostile.YAML[text].splitlines()))
    with hostile.fence(small.folder, small.home):
        began = time.monotonic()
        answer = rmw("counts", "toy")
        seconds = time.monotonic() - began
    refused(answer)
    assert file in answer.error
    # A quarter of that on a quiet machine; what takes a time that grows with the square of the file takes hours.
    assert seconds < 20
    assert small.published() == []


# File of the catalogue, what stands there, what a stranger writes in its place.
FIELDS = {
    "a file above its folder": ("sources.yaml", "[train.jsonl]", "[../outside.jsonl]"),
    "an absolute file": ("sources.yaml", "[train.jsonl]", "[/etc/passwd]"),
    "a file of the home of another": ("sources.yaml", "[train.jsonl]", "['~root/.bashrc']"),
    "a file with a nul": ("sources.yaml", "[train.jsonl]", r'["train\0.jsonl"]'),
    "a file with a long name": ("sources.yaml", "[train.jsonl]", f"[{'x' * 300}.jsonl]"),
    "a folder of nobody": ("sources.yaml", "path: ../rows", "path: ~intruder/rows"),
    "a folder with a nul": ("sources.yaml", "path: ../rows", r'path: "../rows\0"'),
    "a sample above its folder": ("sources.yaml", "path: ../rows", "path: 'samples:../../../../etc'"),
    "a hub id above its folder": ("sources.yaml", "path: ../rows", "hub: ../rows"),
    "a hub id of look-alikes": ("sources.yaml", "path: ../rows", "hub: оrg/name"),
    "a hub id that is a URL": ("sources.yaml", "path: ../rows", "hub: https://evil.example/org/name"),
    "a split that is a path": ("sources.yaml", "train:", "../train:"),
    "a split that is SQL": ("sources.yaml", "train:", "\"x'; DROP TABLE run; --\":"),
    "an adapter that is a module": ("sources.yaml", "adapter: chosen_rejected", "adapter: ..raw"),
    "a rule that is a module": ("pair_sets.yaml", "exact_duplicate]", "os]"),
    "a rule above its package": ("pair_sets.yaml", "exact_duplicate]", "..raw]"),
    "a long number": ("pair_sets.yaml", "exact_duplicate]", f"cap: {{max_pairs: {hostile.HUGE}}}]"),
    "a number of 300 digits": ("pair_sets.yaml", "exact_duplicate]", f"cap: {{max_pairs: {'9' * 300}}}]"),
    "no number": ("recipes/toy.yaml", "5e-4", ".nan"),
    "an infinite number": ("recipes/toy.yaml", "5e-4", "-.inf"),
    "a number without end": ("recipes/toy.yaml", "5e-4", "1e999"),
    "a huge number": ("recipes/toy.yaml", "batch_size: 4", f"batch_size: {'9' * 300}"),
    "a huge number for a float": ("recipes/toy.yaml", "5e-4", "9" * 400),
    "a name that is a path": ("recipes/toy.yaml", "base:", "name: ../../intruder\nbase:"),
    "a parent that is a path": ("recipes/toy.yaml", "base:", "extends: ../../etc/passwd\nbase:"),
    "a pair set that is a path": ("recipes/toy.yaml", "[toy]", "[../toy]"),
    "a text file that is not there": (
        "recipes/toy.yaml", "split:", r'decontaminate_files: ["/etc/intruder\0.txt"]' + "\n  split:",
    ),
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_hostile_field_is_refused_before_anything_is_published(small: Project, rmw: Rmw, field: str):
    file, old, new = FIELDS[field]
    path = small.folder / "catalog" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with hostile.fence(small.folder, small.home):
        refused(rmw("counts", "toy"))
    assert small.published() == []


def test_of_hostile_rows_each_is_kept_verbatim_or_dropped_and_counted(small: Project, rmw: Rmw):
    sources = small.folder / "catalog/sources.yaml"
    sources.write_text(sources.read_text() + "  max_broken_share: 1.0\n")
    small.write_rows("")
    (small.folder / "rows/train.jsonl").write_bytes(b"\n".join(line for line, _ in hostile.LINES.values()))
    with hostile.fence(small.folder, small.home):
        counted = json.loads(rmw("counts", "toy", "--json").out)["sources"]["toy"]
    kept = [json.loads(line)["chosen"] for line, is_row in hostile.LINES.values() if is_row]
    assert counted["rows"] == counted["used"] + sum(counted["dropped"].values())
    assert counted["used"] == 10 + len(kept)
    (raw,) = small.home.glob("artifacts/raw_toy/*/responses.parquet")
    stored = pq.read_table(raw)["text"].to_pylist()
    assert [text[:80] for text in kept if text not in stored] == []


def test_of_hostile_lines_to_score_each_is_taken_or_told():
    found = dict(zip(hostile.LINES, read_lines(line for line, _ in hostile.LINES.values()), strict=True))
    assert {name: line.problem is None for name, line in found.items()} == {
        name: is_row for name, (_, is_row) in hostile.LINES.items()
    }
    assert [name for name, line in found.items() if line.problem and len(line.problem) > 300] == []


@pytest.mark.parametrize("name", hostile.LINES)
def test_a_hostile_line_in_a_file_of_scores_is_one_sentence(small: Project, rmw: Rmw, name: str):
    (small.folder / "scores.jsonl").write_bytes(hostile.LINES[name][0])
    with hostile.fence(small.folder, small.home):
        refused(rmw("aggregate", "pairs", "scores.jsonl"))
