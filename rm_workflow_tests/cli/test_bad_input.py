"""Each kind of bad input: one sentence, exit code 1, nothing half published."""

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from rm_workflow.cli import catalog
from rm_workflow_tests.cli.conftest import RECIPE, Answer, Project, lines, row

Rmw = Callable[..., Answer]


def test_an_unknown_recipe_is_answered_with_the_nearest_name(project: Project, rmw: Rmw):
    answer = rmw("run", "quikstart")
    assert answer.code == 1
    assert "recipe 'quikstart'" in answer.error
    assert "did you mean 'quickstart'?" in answer.error
    assert "rmw recipes" in answer.error
    assert project.published() == []


def test_a_misspelt_key_is_named_with_file_and_line(project: Project, rmw: Rmw):
    project.write_catalog(recipe=RECIPE.replace("learning_rate", "lerning_rate"))
    answer = rmw("run", "toy")
    assert answer.code == 1
    assert "catalog/recipes/toy.yaml:6:" in answer.error
    assert "'training.lerning_rate' (did you mean 'learning_rate'?)" in answer.error
    assert project.published() == []


def test_a_recipe_with_a_mistake_is_told_and_stops_no_other(
    project: Project, rmw: Rmw, caplog: pytest.LogCaptureFixture
):
    (project.folder / "catalog/recipes/bad.yaml").write_text("extends: toy\ntraining: {\n")
    told = "catalog/recipes/bad.yaml:3: "
    assert rmw("plan", "toy", "--yaml").code == 0
    (warning,) = caplog.messages
    assert warning.startswith(f"warning: this recipe is left out: {told}")
    caplog.clear()
    for refused in (rmw("plan", "bad"), rmw("runs", "bad"), rmw("counts", "catalog/recipes/bad.yaml")):
        assert refused.code == 1
        assert refused.error.startswith(f"error: {told}")
    listed = rmw("recipes").out
    assert listed.index("toy") < listed.index("cannot be used") < listed.index(told.strip())
    assert "bad.yaml" not in caplog.text, "who lists it does not warn of it too"
    assert "bad" not in [recipe["name"] for recipe in json.loads(rmw("recipes", "--json").out)]


def test_a_missing_mirror_folder_is_named(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RMW_HUB_MIRROR", str(project.folder / "nowhere"))
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert "RMW_HUB_MIRROR" in answer.error
    assert f"{project.folder}/nowhere does not exist" in answer.error
    assert "create it or unset" in answer.error
    assert project.published() == []


def test_a_file_missing_in_the_mirror_is_named(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    (project.folder / "mirror/Anthropic/hh-rlhf").mkdir(parents=True)
    monkeypatch.setenv("RMW_HUB_MIRROR", str(project.folder / "mirror"))
    answer = rmw("counts", "qwen25_7b_hh_lora_mini")
    assert answer.code == 1
    assert "helpful-base/train.jsonl.gz" in answer.error
    assert not [name for name in project.published() if not name.startswith("bench_")]


def write_broken_lines(project: Project) -> None:
    whole = lines(range(100)).splitlines(True)
    project.write_rows("".join(line if number % 20 else line[:10] + "\n" for number, line in enumerate(whole)))


def write_a_cut_gzip(project: Project) -> None:
    project.write_rows("")
    project.write_catalog("train.jsonl.gz")
    whole = gzip.compress(lines(range(1000)).encode())
    (project.folder / "rows/train.jsonl.gz").write_bytes(whole[: len(whole) // 2])


def write_a_renamed_column(project: Project) -> None:
    renamed = [{"question": r["prompt"], "chosen": r["chosen"], "rejected": r["rejected"]} for r in map(row, range(9))]
    project.write_rows("".join(json.dumps(r) + "\n" for r in renamed))


def write_no_rows(project: Project) -> None:
    project.write_rows("")


# Who writes the bad file; file, field and mend that the sentence names.
BAD_FILES = {
    "five percent of broken lines": (
        write_broken_lines,
        (
            "rows/train.jsonl has 5 broken lines of 100",
            "the first is line 1",
            "mend the file, or raise max_broken_share",
        ),
    ),
    "a gzip that ends early": (write_a_cut_gzip, ("rows/train.jsonl.gz: the gzip file ends early", "fetch it again")),
    "a renamed column": (
        write_a_renamed_column,
        ("column 'prompt' is missing in every row of rows/train.jsonl", "it has: question", "map it under `columns`"),
    ),
    "a file of 0 rows": (write_no_rows, ("rows/train.jsonl has 0 rows", "fetch it again", "`files`")),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_a_bad_file_is_refused_with_file_field_and_mend(project: Project, rmw: Rmw, bad: str):
    write, words = BAD_FILES[bad]
    write(project)
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert [part for part in words if part not in answer.error] == []
    assert project.published() == []


@pytest.mark.parametrize("bad", BAD_FILES)
def test_sources_check_shows_the_rows_and_refuses_in_the_words_of_the_build(project: Project, rmw: Rmw, bad: str):
    BAD_FILES[bad][0](project)
    built = rmw("counts", "toy")
    checked = rmw("sources", "check", "toy")
    assert checked.code == 1
    assert checked.error == built.error
    assert "toy: test.jsonl (test), read by chosen_rejected" in checked.out
    assert "user: Question 1000?" in checked.out
    as_json = rmw("sources", "check", "toy", "--json")
    assert as_json.code == 1
    assert as_json.error == built.error
    assert "error: " + json.loads(as_json.out)["refused"] == built.error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such-verb",), ("rmw:", "'no-such-verb'", "rmw --help")),
        (("sources", "lst"), ("rmw sources:", "list", "rmw sources --help")),
        (("sources",), ("rmw sources:", "no verb is named")),
        (("run",), ("rmw run:", "Missing argument 'recipe'", "rmw run --help")),
        (("run", "toy", "more"), ("rmw run:", "more")),
        (("run", "toy", "--untl", "raw"), ("rmw run:", "--untl", "--until")),
        (("run", "toy", "--until", "nowhere"), ("rmw run:", "'nowhere' is not a stage", "checkpoint")),
        (("run", "toy", "--until"), ("--until", "requires an argument")),
        (("show", "raw_toy", "-n", "many"), ("rmw show:", "-n", "integer")),
        (("show", "raw_toy", "-n", "0"), ("rmw show:", "-n", "1")),
        (("plan", "toy", "--yaml", "--json"), ("rmw plan", "--yaml", "leave one")),
        (("score", "a", "b", "-o", "c", "--precision", "fp8"), ("rmw score:", "--precision", "fp32")),
    ],
)
def test_wrong_usage_is_one_sentence_and_exits_with_2(
    project: Project, rmw: Rmw, arguments: tuple[str, ...], words: tuple[str, ...]
):
    answer = rmw(*arguments)
    assert answer.code == 2
    assert [part for part in words if part not in answer.error] == []


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_that_does_not_exist_is_refused_before_the_web_ui_starts(
    project: Project, rmw: Rmw, port: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("the web UI was started"))
    answer = rmw("ui", "--port", port)
    assert answer.code == 2
    assert "--port" in answer.error


def test_help_is_no_error(project: Project, rmw: Rmw):
    answer = rmw("run", "--help")
    assert (answer.code, answer.err) == (0, "")
    assert "--until" in answer.out


def test_a_code_that_a_verb_ends_with_is_the_programs_own(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    def end(*_: object) -> None:
        raise typer.Exit(3)

    monkeypatch.setattr(catalog, "print_table", end)
    assert rmw("recipes").code == 3


def test_an_interrupted_verb_says_how_to_go_on(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "print_table", interrupt)
    answer = rmw("recipes")
    assert answer.code == 130
    assert "run the same command again" in answer.error


def test_a_missing_file_or_folder_is_told_with_its_source_and_mend(project: Project, rmw: Rmw):
    (project.folder / "rows/train.jsonl").unlink()
    for verb in (("counts", "toy"), ("sources", "check", "toy")):
        error = rmw(*verb).error
        assert "sources.yaml: source 'toy': path: " in error
        assert error.endswith(
            "file train.jsonl is missing (nearest there: test.jsonl); put it there or correct `files`"
        )
    (project.folder / "rows").rename(project.folder / "moved")
    assert rmw("counts", "toy").error.endswith("/rows does not exist; create it or correct `path`")


BAD_ENTRIES = {
    "an unknown rule": ("pair_sets.yaml:2", "exact_duplicate]", "exact_duplicat]", "did you mean 'exact_duplicate'?"),
    "an unknown parameter": (
        "pair_sets.yaml:5",
        "exact_duplicate]",
        "cap: {max_pair: 5}]",
        "parameter 'max_pairs' is missing",
    ),
    "a wrong order": (
        "pair_sets.yaml:2",
        "identical_responses, exact_duplicate",
        "exact_duplicate, identical_responses",
        "write them as [identical_responses, exact_duplicate]",
    ),
    "an unknown adapter": ("sources.yaml:2", "chosen_rejected", "chosen_rejectd", "did you mean 'chosen_rejected'?"),
    "an unknown field": ("sources.yaml:2", "licence:", "columns: {promt: p}\n  licence:", "has no field 'promt'"),
}


@pytest.mark.parametrize("bad", BAD_ENTRIES)
@pytest.mark.parametrize("verb", [("recipes",), ("plan", "./mine.yaml"), ("plan", "toy", "--yaml"), ("counts", "toy")])
def test_an_entry_that_cannot_run_is_refused_when_the_catalogue_is_loaded(
    project: Project, rmw: Rmw, bad: str, verb: tuple[str, ...]
):
    place, old, new, words = BAD_ENTRIES[bad]
    (project.folder / "mine.yaml").write_text("extends: toy\n")
    file = project.folder / "catalog" / place.partition(":")[0]
    file.write_text(file.read_text().replace(old, new))
    answer = rmw(*verb)
    assert answer.code == 1
    assert answer.error.startswith(f"error: catalog/{place}: ")
    assert words in answer.error
    assert project.published() == []


@pytest.mark.parametrize(
    ("rules", "line"),
    [
        ("    - cap:\n        max_pairs: 0\n", 7),
        ("    - cap: {max_pairs: 0}\n", 6),
        ("    - name: cap\n      parameters:\n        max_pairs: 0\n", 8),
        ("    - cap:\n        max_pairs: 1\n        more: 2\n", 8),
        ("    - cap: {}\n", 6),
    ],
)
def test_a_wrong_parameter_of_a_rule_is_named_with_its_own_line(project: Project, rmw: Rmw, rules: str, line: int):
    file = project.folder / "catalog/pair_sets.yaml"
    before = file.read_text().strip("\n").replace("  rules: [identical_responses, exact_duplicate]", "  rules:")
    file.write_text(before + "\n    - exact_duplicate\n" + rules)
    answer = rmw("recipes")
    assert answer.code == 1
    assert answer.error.startswith(f"error: catalog/pair_sets.yaml:{line}: pair set 'toy': rule 'cap': ")


def test_an_override_of_an_unknown_path_is_answered_with_the_nearest_one(project: Project, rmw: Rmw):
    answer = rmw("run", "toy", "--set", "training.lerning_rate=1")
    assert answer.code == 1
    assert "learning_rate" in answer.error


@pytest.mark.parametrize("verb", [("show",), ("lineage",), ("trace",)])
def test_an_unknown_asset_or_row_is_one_sentence(project: Project, rmw: Rmw, verb: tuple[str]):
    assert rmw("counts", "toy").code == 0
    answer = rmw(*verb, "pairs_nothing")
    assert answer.code == 1
    assert "pairs_nothing" in answer.error


@pytest.fixture(params=["3m", "6m"])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small tmpfs; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("a small tmpfs can only be mounted as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_is_one_sentence_and_nothing_is_half_published(
    project: Project, rmw: Rmw, small_disk: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RMW_HOME", str(small_disk / "home"))
    project.write_rows("".join(json.dumps({**row(n), "chosen": os.urandom(400).hex()}) + "\n" for n in range(8000)))
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert "RMW_HOME" in answer.error
    assert "free" in answer.error
    for published in (small_disk / "home").glob("artifacts/*/*"):
        assert (published / "manifest.json").is_file()


def test_a_read_only_home_is_one_sentence(
    project: Project, rmw: Rmw, small_disk: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RMW_HOME", str(small_disk / "home"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert f"cannot write {small_disk}/home" in answer.error
    assert "read-only; make it writable or set RMW_HOME to another folder" in answer.error
    assert not (small_disk / "home").exists()


def test_a_home_that_became_read_only_is_still_read(
    project: Project, rmw: Rmw, small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    rmw("counts", "toy")
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    shutil.copytree(project.home, small_disk / "home")
    monkeypatch.setenv("RMW_HOME", str(small_disk / "home"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert json.loads(rmw("counts", "toy", "--no-run", "--json").out)["sources"]["toy"]["rows"] == 110
    assert "Question" in rmw("show", "raw_toy").out
    for verb in (("lineage", "pairs_toy"), ("trace", "train.jsonl:1")):
        caplog.clear()
        assert json.loads(rmw(*verb, "--json").out)
        assert ["lineage.duckdb (it is read-only)" in record.message for record in caplog.records] == [True]
    for verb in (("run", "toy"), ("lineage", "rebuild"), ("sources", "update", "hh_helpful_base")):
        answer = rmw(*verb)
        assert answer.code == 1
        assert "read-only; make it writable or set RMW_HOME to another folder" in answer.error


ASKING = [
    *(("trace", "train.jsonl:1"), ("show", "raw_toy"), ("lineage", "raw_toy"), ("lineage", "rebuild"), ("verify",)),
    *(("history",), ("funnel", "toy"), ("diff", "a", "b"), ("shared", "a", "b"), ("worst", "a", "--source", "toy")),
]


@pytest.mark.parametrize("verb", ASKING)
def test_a_home_that_does_not_exist_is_told_and_not_made(
    project: Project, rmw: Rmw, caplog: pytest.LogCaptureFixture, verb: tuple[str, ...]
):
    answer = rmw(*verb)
    assert (answer.code, caplog.records) == (1, [])
    assert answer.error == (
        f"error: there is no home yet: RMW_HOME ({project.home}) does not exist; make one with rmw run quickstart, or "
        "set RMW_HOME to the one you mean"
    )
    assert not project.home.exists()


def test_a_damaged_index_is_made_anew_and_told_once(project: Project, rmw: Rmw, caplog: pytest.LogCaptureFixture):
    rmw("run", "toy", "--until", "mixture")
    (project.home / "lineage.duckdb").write_text("not a database")
    caplog.clear()
    for _ in range(2):
        assert rmw("lineage", "raw_toy").code == 0
    (record,) = caplog.records
    assert record.message.startswith("lineage.duckdb was damaged (")
    assert record.message.endswith("was made anew from 3 events")


def test_a_home_that_is_a_file_is_one_sentence(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    (project.folder / "file").write_text("")
    monkeypatch.setenv("RMW_HOME", str(project.folder / "file"))
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert "RMW_HOME" in answer.error
