import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.catalog.entries import add_entries, locked_catalog
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.yaml_file import parse_value
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import RECIPE, Answer, Project, lines, row

Rmw = Callable[..., Answer]

HH = {"chosen": "\n\nHuman: Hi?\n\nAssistant: Good day.", "rejected": "\n\nHuman: Hi?\n\nAssistant: No."}
TURN = {"role": "user", "content": "Hi?"}
MESSAGES = {
    "chosen": [TURN, {"role": "assistant", "content": "Good day."}],
    "rejected": [TURN, {"role": "assistant", "content": "No."}],
}
RATED = {
    "prompt": "Hi?",
    "completions": [
        {"text": "Good day.", "ratings": {"tone": 5, "help": 3}},
        {"text": "No.", "ratings": {"tone": 1, "help": 3}},
    ],
}
OTHER = {"question": "Hi?", "better": "Good day.", "worse": "No."}
LATIN = '{"prompt": "Qué?", "chosen": "a", "rejected": "b"}\n'
REPLIES = ["Yes.", "No."]
GIVEN_RULES = ["identical_responses", "exact_duplicate"]


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return path
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def catalog_texts(project: Project) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((project.folder / "catalog").glob("*.yaml"))}


@pytest.mark.parametrize(
    ("file", "example", "adapter", "rules"),
    [
        ("mine.jsonl", row(1), "chosen_rejected", GIVEN_RULES),
        ("mine.jsonl.gz", MESSAGES, "chosen_rejected", GIVEN_RULES),
        ("mine.parquet", MESSAGES, "chosen_rejected", GIVEN_RULES),
        ("mine.jsonl", HH, "hh_transcript", GIVEN_RULES),
        ("mine.jsonl", {"prompt": "Hi?", **HH}, "hh_transcript", GIVEN_RULES),
        ("mine.jsonl", RATED, "scored_completions", ["rating", "equal_score", *GIVEN_RULES]),
    ],
)
def test_the_adapter_is_guessed_and_the_rows_are_shown(
    project: Project, rmw: Rmw, file: str, example: dict[str, Any], adapter: str, rules: list[str]
):
    write(project.folder / "rows" / file, example)
    answer = rmw("sources", "add", f"rows/{file}")
    assert answer.code == 0, answer.err
    assert "-> " in answer.out
    assert "'mine' is added to catalog/sources.yaml and catalog/pair_sets.yaml" in answer.err
    catalog = load_catalog(load_settings())
    source, pair_set = catalog.sources["mine"], catalog.pair_sets["mine"]
    assert (source.adapter, source.files) == (adapter, {"train": [file]})
    assert [rule.name for rule in pair_set.rules] == rules
    assert pair_set.score == (["help", "tone"] if example is RATED else [])
    assert rmw("sources", "check", "mine").code == 0


@pytest.mark.parametrize("example", [row(1), RATED])
def test_an_added_file_runs_to_a_mixture(project: Project, rmw: Rmw, example: dict[str, Any]):
    write(project.folder / "rows/mine.jsonl", *({**example, "prompt": f"Question {number}?"} for number in range(30)))
    assert rmw("sources", "add", "rows/mine.jsonl").code == 0
    (project.folder / "my.yaml").write_text(RECIPE.replace("[toy]", "[mine]").replace("native", "hash"))
    counted = json.loads(rmw("counts", "./my.yaml", "--json").out)
    assert counted["sources"]["mine"]["rows"] == 30
    assert counted["pair_sets"]["mine"]["kept"] == 30


@pytest.mark.parametrize("name", ["123", "null", "true", "1e5", "mine"])
def test_the_printed_hint_reads_as_the_name_also_where_yaml_would_take_it_for_a_value(
    project: Project, rmw: Rmw, name: str
):
    answer = rmw("sources", "add", str(write(project.folder / f"rows/{name}.jsonl", row(1))))
    assert answer.code == 0, answer.err
    hint = answer.err.partition("recipe: mixture: ")[2]
    assert parse_value(hint, "hint")["pair_sets"] == [name]
    assert load_catalog(load_settings()).pair_sets[name].source == name


def test_columns_licence_and_name_are_taken_from_the_options(project: Project, rmw: Rmw):
    write(project.folder / "rows/mine.jsonl", {"question": "Hi?", "better": "Good day.", "worse": "No."})
    columns = ("--column", "prompt=question", "--column", "chosen=better", "--column", "rejected=worse")
    answer = rmw("sources", "add", "rows/mine.jsonl", *columns, "--name", "my-own", "--licence", "CC0-1.0", "--json")
    printed = json.loads(answer.out)
    assert printed["files"][0]["rows"][0]["messages"] == [TURN]
    assert printed["entries"]["sources.yaml"]["my_own"] == {
        "path": "../rows",
        "files": {"train": ["mine.jsonl"]},
        "adapter": "chosen_rejected",
        "columns": {"prompt": "question", "chosen": "better", "rejected": "worse"},
        "licence": "CC0-1.0",
    }
    assert load_catalog(load_settings()).sources["my_own"].path == str(project.folder / "rows")


def test_what_stood_in_the_catalogue_stays_byte_for_byte(project: Project, rmw: Rmw):
    sources = project.folder / "catalog/sources.yaml"
    sources.write_text("# my sources\n" + sources.read_text() + "# the end, without a line break")
    before = catalog_texts(project)
    rmw("sources", "add", str(write(project.folder / "rows/mine.jsonl", row(1))))
    after = catalog_texts(project)
    assert list(after) == list(before)
    assert all(after[name].startswith(before[name]) for name in before)


def test_a_linked_file_stays_a_link_and_what_it_names_is_continued(project: Project, rmw: Rmw):
    sources = project.folder / "catalog/sources.yaml"
    (project.folder / "kept").mkdir()
    kept = sources.rename(project.folder / "kept/sources.yaml")
    sources.symlink_to(kept)
    assert rmw("sources", "add", str(write(project.folder / "rows/mine.jsonl", row(1)))).code == 0
    assert sources.readlink() == kept
    assert "mine:" in kept.read_text()
    assert list(kept.parent.iterdir()) == [kept]


def test_line_ends_of_a_file_stay_as_they_are(project: Project, rmw: Rmw):
    sources = project.folder / "catalog/sources.yaml"
    before = sources.read_bytes().replace(b"\n", b"\r\n")
    sources.write_bytes(before)
    assert rmw("sources", "add", str(write(project.folder / "rows/mine.jsonl", row(1)))).code == 0
    after = sources.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == after.count(b"\r\n") > before.count(b"\n")


def test_a_file_of_comments_only_is_continued(project: Project, rmw: Rmw):
    for file in ("sources.yaml", "pair_sets.yaml"):
        (project.folder / "catalog" / file).write_text("# my own data\n")
    (project.folder / "catalog/recipes/toy.yaml").unlink()
    assert rmw("sources", "add", str(write(project.folder / "rows/mine.jsonl", row(1)))).code == 0
    assert (project.folder / "catalog/sources.yaml").read_text().startswith("# my own data\n\nmine:\n")
    assert "mine" in load_catalog(load_settings()).pair_sets


def test_an_add_waits_for_another_one_and_sees_what_it_has_written(project: Project):
    write(project.folder / "rows/mine.jsonl", row(1))
    folder = project.folder / "catalog"
    entry = {"path": "../rows", "files": {"train": ["other.jsonl"]}, "adapter": "chosen_rejected", "licence": "MIT"}
    command = [sys.executable, "-m", "rm_workflow.cli.main", "sources", "add", "rows/mine.jsonl"]
    with locked_catalog(folder):
        waiting = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(3)
        add_entries(folder, {"sources.yaml": {"mine": entry}})
    assert "source 'mine' is in the catalogue already" in waiting.communicate()[1]
    assert load_catalog(load_settings()).sources["mine"].licence == "MIT"


def test_a_project_without_a_catalogue_gets_one(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    (project.folder / "other").mkdir()
    monkeypatch.chdir(project.folder / "other")
    monkeypatch.delenv("RMW_CATALOG")
    file = str(write(project.folder / "elsewhere/mine.jsonl", row(1)))
    answer = rmw("sources", "add", file)
    assert answer.code == 1
    assert "set RMW_CATALOG to a folder" in answer.error
    (project.folder / "other/workspace.yaml").write_text("")
    assert rmw("sources", "add", file).code == 0
    text = (project.folder / "other/catalog/sources.yaml").read_text()
    assert f"path: {project.folder}/elsewhere\n" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rows/absent.jsonl",), ("rows/absent.jsonl", "there is no such file")),
        (("rows",), ("rows is a folder; name one",)),
        (("rows/mine.xls",), ("mine.xls", "unknown kind of file")),
        (
            ("rows/odd.jsonl",),
            ("odd.jsonl", "the columns a, b", "--column", "--adapter", "a column is missing (chosen)"),
        ),
        (("rows/mine.jsonl", "--name", "toy"), ("source 'toy' is in the catalogue already", "--name")),
        (("rows/mine.jsonl", "--name", "hh_helpful_base"), ("is in the catalogue already",)),
        (("rows/mine.jsonl", "--name", "Ü"), ("source 'Ü'", "a-z, 0-9 and _")),
        (("rows/mine.jsonl", "--adapter", "chosen_rejectd"), ("did you mean 'chosen_rejected'?",)),
        (("rows/mine.jsonl", "--column", "promt=question"), ("no adapter", "promt")),
        (("rows/mine.jsonl", "--adapter", "hh_transcript"), ("no row could be used", "--adapter")),
        (("rows/empty.jsonl",), ("rows/empty.jsonl has 0 rows", "nothing is added; mend the file")),
        (("rows/empty.csv",), ("rows/empty.csv has 0 rows", "nothing is added; mend the file")),
        (("rows/blank.jsonl",), ("rows/blank.jsonl: line 1 cannot be read (the line is empty)", "one JSON object a")),
        (("rows/latin.jsonl",), ("line 1 cannot be read (not UTF-8 at byte 1", "iconv -f ISO-8859-1 -t UTF-8")),
        (("rows/latin.csv",), ("line 2 cannot be read (not UTF-8)", "iconv -f ISO-8859-1 -t UTF-8")),
        (("rows/wide.jsonl",), ("the file is UTF-16", "iconv -f UTF-16 -t UTF-8")),
        (("rows/list.json",), ("the file is one JSON array", "jq -c '.[]'")),
        (
            ("rows/mixed.jsonl",),
            (
                "mixed.jsonl has 3 of 7 rows of another shape: 2 with better text, question text, worse text",
                "(the first is row 4); 1 with completions list, prompt text (the first is row 7)",
                "--drop-other-shapes",
            ),
        ),
        (("rows/broken.jsonl",), ("rows/broken.jsonl has 1 broken line of 2", "nothing is added; mend the file")),
        (("rows/cut.jsonl.gz",), ("rows/cut.jsonl.gz: the gzip file ends early",)),
        (("rows/stub.jsonl.gz",), ("/rows/stub.jsonl.gz: the gzip file ends early",)),
        (("rows/unrated.jsonl",), ("unrated.jsonl", "no response has a rating")),
        (("rows/kto.jsonl",), ("kto.jsonl: column label labels each response alone", "labelled_answers")),
        (
            ("rows/candidates.jsonl",),
            ("column responses holds candidates", "rmw rank", "rejection_sampling.candidates"),
        ),
    ],
)
def test_what_cannot_be_added_leaves_the_catalogue_as_it_was(
    project: Project, rmw: Rmw, arguments: tuple[str, ...], words: tuple[str, ...]
):
    rows = project.folder / "rows"
    write(rows / "mine.jsonl", row(1))
    write(rows / "mine.xls", row(1))
    write(rows / "odd.jsonl", {"a": "1", "b": "2"})
    write(rows / "candidates.jsonl", {"prompt": "A river?", "responses": ["The Danube.", "No."]})
    write(rows / "empty.jsonl")
    (rows / "empty.csv").write_text("")
    (rows / "blank.jsonl").write_text("\n\n")
    (rows / "latin.jsonl").write_bytes(LATIN.encode("latin-1"))
    (rows / "latin.csv").write_bytes("prompt,chosen,rejected\nQué?,a,b\n".encode("latin-1"))
    (rows / "wide.jsonl").write_bytes(LATIN.encode("utf-16"))
    (rows / "list.json").write_text(f"[{json.dumps(row(1))}]")
    write(rows / "mixed.jsonl", *map(row, range(3)), OTHER, row(3), OTHER, RATED)
    write(rows / "unrated.jsonl", {"prompt": "Hi?", "completions": [{"text": "Yes.", "ratings": {}}]})
    write(rows / "kto.jsonl", *({"prompt": "Hi?", "completion": text, "label": text == "Yes."} for text in REPLIES))
    (rows / "broken.jsonl").write_text(json.dumps(row(1)) + "\n{\n")
    (rows / "cut.jsonl.gz").write_bytes(gzip.compress(lines(range(900)).encode())[:-900])
    (rows / "stub.jsonl.gz").write_bytes(gzip.compress(lines(range(9)).encode())[:-9])
    before = catalog_texts(project)
    answer = rmw("sources", "add", *arguments)
    assert answer.code == 1
    assert [part for part in words if part not in answer.error] == []
    assert ".yaml" not in answer.error
    assert "`files`" not in answer.error
    assert catalog_texts(project) == before


def test_an_adapter_without_its_columns_is_not_told_beside_one_that_has_them(project: Project, rmw: Rmw):
    write(project.folder / "rows/empty.jsonl", {"prompt": "Hi?", "chosen": "", "rejected": "No."})
    answer = rmw("sources", "add", "rows/empty.jsonl")
    assert answer.code == 1
    assert "chosen_rejected: a message is only white space (response chosen)); it has" in answer.error
    assert "mend the rows, or map" in answer.error
    assert "a column is missing" not in answer.error


def test_rows_of_another_shape_are_told_and_left_out_where_that_is_asked_for_or_they_are_few(
    project: Project, rmw: Rmw
):
    write(project.folder / "rows/mixed.jsonl", row(1), OTHER)
    asked = rmw("sources", "add", "rows/mixed.jsonl", "--drop-other-shapes")
    assert asked.code == 0, asked.err
    write(project.folder / "rows/stray.jsonl", *map(row, range(100)), OTHER)
    few = rmw("sources", "add", "rows/stray.jsonl", "--json")
    other = {"columns": {"better": "text", "question": "text", "worse": "text"}, "num_rows": 1, "first_row": 101}
    assert json.loads(few.out)["files"][0]["other_shapes"] == [other]
    for words in (asked.out, rmw("sources", "check", "mixed").out):
        assert "1 with better text, question text, worse text (the first is row 2)" in " ".join(words.split())


def test_an_empty_value_in_the_usual_columns_is_no_other_shape(project: Project, rmw: Rmw):
    write(project.folder / "rows/mine.jsonl", row(1), {**row(2), "prompt": " "}, {**row(3), "chosen": 3})
    answer = rmw("sources", "add", "rows/mine.jsonl", "--json", "--drop-other-shapes")
    others = json.loads(answer.out)["files"][0]["other_shapes"]
    assert [other["first_row"] for other in others] == [3]


def test_a_wrong_column_option_is_wrong_usage(project: Project, rmw: Rmw):
    answer = rmw("sources", "add", "rows/train.jsonl", "--column", "prompt")
    assert answer.code == 2
    assert "'prompt' is not FIELD=COLUMN" in answer.error


def test_a_catalogue_on_one_line_is_not_broken(project: Project, rmw: Rmw):
    sets = project.folder / "catalog/pair_sets.yaml"
    sets.write_text("{toy: {source: toy, candidates: given, rules: [exact_duplicate]}}\n")
    before = catalog_texts(project)
    answer = rmw("sources", "add", str(write(project.folder / "rows/mine.jsonl", row(1))))
    assert answer.code == 1
    assert "catalog/pair_sets.yaml cannot be continued" in answer.error
    assert catalog_texts(project) == before
