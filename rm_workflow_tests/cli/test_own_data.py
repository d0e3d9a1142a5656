"""Which form a file of the user's own has, and what is asked for where it is not clear."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rm_workflow.catalog.loading import load_catalog
from rm_workflow.cli.own_data import OwnData, Said, understand_file
from rm_workflow.errors import UserError
from rm_workflow.hub import resolve_files
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow.preferences.raw import build_raw
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import Answer, Project
from rm_workflow_tests.preferences.sources import write_lines

PAGE = Path(__file__).parents[2] / "docs/how-to/data.md"
SIDES = {"response_a": "Yes.", "response_b": "No."}


def understood(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    adapter: str | None = None,
    winner: Mapping[str, Sequence[str]] | None = None,
    **columns: str,
) -> OwnData:
    write_lines(folder / "mine.jsonl", rows)
    return understand_file("mine", folder / "mine.jsonl", Said(adapter, columns, winner or {}, "CC0"))


@pytest.mark.parametrize(
    ("row", "adapter", "columns"),
    [
        (
            {"instruction": "Write big.", "input": "hi", "output": "HI", "chosen": "HI", "rejected": "hi"},
            "chosen_rejected",
            {"prompt": "instruction", "prompt_input": "input"},
        ),
        ({"question": "Hi?", "preferred": "Yes.", "worse": "No."}, "chosen_rejected", {"prompt": "question"}),
        (
            {"input": {"messages": [{"role": "user", "content": "Hi?"}]}, "preferred_output": "Yes."}
            | {"non_preferred_output": [{"role": "assistant", "content": "No."}]},
            "chosen_rejected",
            {"prompt": "input", "chosen": "preferred_output", "rejected": "non_preferred_output"},
        ),
        (
            {"prompt": "Hi?", "answers": ["Yes.", "No."], "ratings": [4, 1]},
            "scored_completions",
            {"completions": "answers", "scores": "ratings"},
        ),
        (
            {"prompt": "Hi?", "responses": [{"content": "Yes.", "score": 3}, {"content": "No.", "score": 1}]},
            "scored_completions",
            {"completions": "responses", "text": "content", "rating_score": "score"},
        ),
        (
            {"prompt": "Hi?", "answers": [{"answer": "Yes.", "rank": 1, "model": "m"}, {"answer": "No.", "rank": 2}]},
            "scored_completions",
            {"completions": "answers", "text": "answer", "rank": "rank"},
        ),
        (
            {"instruction": "Hi?", "output": "Yes.", "worker_id": 7, "quality": "4"},
            "rated_response",
            {"prompt": "instruction", "response": "output", "rating_quality": "quality"},
        ),
        ({"prompt": "Hi?", **SIDES, "votes_a": 2, "votes_b": 1}, "labelled_pair", {"votes_a": "votes_a"}),
    ],
)
def test_columns_under_other_names_are_found(
    tmp_path: Path, row: dict[str, Any], adapter: str, columns: dict[str, str]
):
    found = understood(tmp_path, [row]).source
    assert found.adapter == adapter
    assert {field: found.columns.get(field) for field in columns} == columns


@pytest.mark.parametrize(
    ("labels", "winner"),
    [
        (("A", "B"), {"a": ["A"], "b": ["B"]}),
        (
            ("model_a", "model_b", "tie", "tie (bothbad)"),
            {"a": ["model_a"], "b": ["model_b"], "tie": ["tie", "tie (bothbad)"]},
        ),
        (("A", "A"), {"a": ["A"], "b": ["B"]}),
        (("left", "right", "tie"), {"a": ["left"], "b": ["right"], "tie": ["tie"]}),
    ],
)
def test_labels_in_words_need_no_word_from_the_user(
    tmp_path: Path, labels: Sequence[str], winner: dict[str, list[str]]
):
    rows = [{"prompt": "Hi?", **SIDES, "winner": label} for label in labels]
    found = understood(tmp_path, rows)
    assert (found.source.columns, found.source.winner) == ({"label": "winner"}, winner)
    assert found.pair_set() == {
        "candidates": "voted",
        "score": ["preference"],
        "rules": ["equal_score", "identical_responses", "exact_duplicate"],
    }


def test_a_label_that_stands_after_the_rows_looked_at_is_seen(tmp_path: Path):
    rows = [{"prompt": f"Hi {n}?", **SIDES, "label": "B" if n % 2 else "A"} for n in range(200)]
    found = understood(tmp_path, [*rows, {"prompt": "Ho?", **SIDES, "label": "tie"}])
    assert found.source.winner == {"a": ["A"], "b": ["B"], "tie": ["tie"]}


@pytest.mark.parametrize("labels", [(0, 1), (1, 2, 0), (True, False), ("A", "B", "maybe"), ("x", "y")])
def test_labels_that_do_not_say_who_wins_are_asked_for(tmp_path: Path, labels: Sequence[Any]):
    rows = [{"prompt": "Hi?", **SIDES, "label": label} for label in labels]
    with pytest.raises(
        UserError, match=r"mine\.jsonl: the labels of column 'label' are .* --winner a=LABEL --winner b="
    ):
        understood(tmp_path, rows)


def test_a_label_under_a_name_of_its_own_is_asked_for(tmp_path: Path):
    rows = [{"prompt": "Hi?", "response_0": "Yes.", "response_1": "No.", "safer_id": 0, "better_id": 1}]
    with pytest.raises(
        UserError, match=r"response_0 and response_1 hold two .*label=COLUMN \(there are: prompt, safer_id"
    ):
        understood(tmp_path, rows)
    found = understood(tmp_path, rows, winner={"a": ["0"], "b": ["1"]}, label="safer_id").source
    assert (found.columns["response_a"], found.winner) == ("response_0", {"a": [0], "b": [1]})


def test_named_labels_are_those_of_the_file_whatever_their_kind(tmp_path: Path):
    rows = [{"prompt": "Hi?", **SIDES, "label": label} for label in (-1, 2, 0)]
    winner = {"a": ["-1", "-2"], "b": ["2"], "tie": ["0"]}
    assert understood(tmp_path, rows, winner=winner).source.winner == {"a": [-1, -2], "b": [2], "tie": [0]}
    texts = [{**row, "label": str(row["label"])} for row in rows]
    assert understood(tmp_path, texts, winner=winner).source.winner == {"a": ["-1", -2], "b": ["2"], "tie": ["0"]}
    with pytest.raises(UserError, match=r"column 'label' has the labels 0 too; name each with --winner"):
        understood(tmp_path, rows, winner={"a": ["-1"], "b": ["2"]})


def test_several_columns_of_numbers_are_asked_for(tmp_path: Path):
    row = {"prompt": "Hi?", "response": "Yes.", "help": 4, "length_style": 2, "id": 1}
    with pytest.raises(UserError, match=r"columns help, length_style hold numbers; .*--column rating_help=help"):
        understood(tmp_path, [row])
    assert understood(tmp_path, [row], rating_help="help").ratings == ["help"]


def test_an_adapter_that_was_asked_for_says_what_it_misses(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"no row has the fields response_a, response_b and label of adapter labelled_pair"
    ):
        understood(tmp_path, [{"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}], adapter="labelled_pair")


def test_labels_where_no_adapter_reads_any_are_told(tmp_path: Path):
    with pytest.raises(UserError, match="has the fields chosen, labels"):
        understood(tmp_path, [{"prompt": "Hi?"}], winner={"a": ["1"]}, chosen="x")


def page_examples() -> dict[str, tuple[str, list[str]]]:
    """Return name -> (file text, arguments of ``rmw``) of the examples under "Your own data"."""
    section = PAGE.read_text("utf-8").partition("## Your own data")[2].partition("```bash\n")[2].partition("```")[0]
    examples = {}
    for example in section.strip().split("\n\n"):
        *comments, command = example.splitlines()
        name = re.match(r"# (\S+): ", comments[0])[1]
        lines = "\n".join(line.removeprefix("#").strip().removeprefix(f"{name}: ") for line in comments)
        text = lines.replace(",\n", ",") if name.endswith(".jsonl") else lines
        examples[name] = (text + "\n", command.split()[1:])
    return examples


# pairs that a file of the examples gives, by (chosen, rejected)
DANUBE = ("The Danube.", "No.")
PAIRS = {
    "rows/chosen.jsonl": [DANUBE],
    "rows/dialogues.jsonl": [DANUBE],
    "rows/mapped.csv": [DANUBE],
    "rows/rated.jsonl": [("A river.", "No."), ("The Danube.", "A river."), DANUBE],
    "rows/single.jsonl": [DANUBE],
    "rows/ab.csv": [("Lake Garda.", "No."), DANUBE],
    "rows/votes.csv": [("The Danube.", "The Rhine.")],
    "rows/counted.jsonl": [DANUBE],
    "rows/four.jsonl": [DANUBE, ("The Rhine.", "No.")],
}


def test_every_example_of_the_page_is_one_of_these():
    assert list(page_examples()) == list(PAIRS)


@pytest.mark.parametrize("file", PAIRS)
def test_an_example_of_the_page_becomes_pairs(project: Project, rmw: Callable[..., Answer], file: str):
    import duckdb

    text, arguments = page_examples()[file]
    (project.folder / file).write_text(text)
    answer = rmw(*arguments, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["understood"].startswith("understood as ")
    name = Path(file).stem
    assert rmw("sources", "check", name).code == 0
    catalog = load_catalog(load_settings())
    raw, out = project.folder / "raw", project.folder / "out"
    raw.mkdir()
    out.mkdir()
    source, pair_set = catalog.sources[name], catalog.pair_sets[name]
    build_raw(name, source, resolve_files(source, load_settings()), raw)
    built = build_pair_set(name, pair_set, raw, out)
    assert all(check.passed for check in built.checks)
    pairs = duckdb.execute(
        f"""
        select c.text, r.text from '{out}/pairs.parquet' join '{raw}/responses.parquet' c on c.response_id = chosen_id
        join '{raw}/responses.parquet' r on r.response_id = rejected_id order by all
        """
    ).fetchall()
    assert pairs == sorted(PAIRS[file])
