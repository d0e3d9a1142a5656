"""The questions of docs/lineage.md, asked of a home with two versions of the quickstart's data and checkpoint."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rm_workflow_tests.cli.conftest import Answer
from rm_workflow_tests.cli.lived_in import FEWER, LivedIn, live_in

Rmw = Callable[..., Answer]
DOCUMENT = Path(__file__).parents[2] / "docs/lineage.md"
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivedIn]:
    folder = tmp_path_factory.mktemp("lived_in")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RMW_HOME", str(folder / "home"))
        patch.setenv("DAGSTER_HOME", str(folder / "home/dagster"))
        for name in ("RMW_CATALOG", "RMW_HUB_MIRROR"):
            patch.delenv(name, raising=False)
        yield live_in()


@pytest.fixture
def ask(lived_in: LivedIn, rmw: Rmw) -> Callable[..., Any]:
    def answer(*arguments: str) -> Any:
        found = rmw(*arguments, "--json")
        assert found.code == 0, found.err
        return json.loads(found.out)

    return answer


def documented(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)


COMMANDS = [line for block in documented("bash") for line in block.splitlines() if line.startswith("rmw ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_documented_command_answers(command: str, lived_in: LivedIn, rmw: Rmw):
    named = command.replace("@OLD", f"@{lived_in.checkpoints[0].version[:8]}")
    answer = rmw(*shlex.split(named, comments=True)[1:])
    assert answer.code == 0, answer.err
    assert answer.out


def test_each_documented_statement_gives_rows(lived_in: LivedIn, rmw: Rmw):
    assert rmw("funnel", "quickstart").code == 0
    (block,) = documented("sql")
    statements = [statement for statement in block.split(";") if statement.strip()]
    with duckdb.connect(str(lived_in.store.home / "lineage.duckdb"), read_only=True) as con:
        num_rows = [len(con.execute(statement).fetchall()) for statement in statements]
        tables = [name for (name,) in con.execute("select table_name from information_schema.tables").fetchall()]
    assert [number > 0 for number in num_rows] == [True, False, True]
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)))
    assert sorted(told) == sorted(set(tables) - {"indexed_event", "indexed_with"})


def test_the_funnel_shows_each_version_and_its_change(ask: Callable[..., Any]):
    rows = ask("funnel", "quickstart")
    mixtures = [row for row in rows if row["kind"] == "mixture"]
    assert [row["train"] for row in mixtures] == [420, 400]
    assert [row["change"] for row in mixtures] == [None, -20]
    assert mixtures[1]["dropped"]["sample"] - mixtures[0]["dropped"]["sample"] == 20
    assert [row["kind"] for row in rows[:6]] == ["raw", "raw", "pairs", "pairs", "mixture", "tokens"]
    for row in rows:
        assert row["came_in"] == row["kept"] + sum(row["dropped"].values())


def test_two_checkpoints_differ_in_what_was_changed_and_nothing_else(ask: Callable[..., Any], lived_in: LivedIn):
    old, new = (checkpoint.id for checkpoint in lived_in.checkpoints)
    found = ask("diff", old, new)
    assert (found["a"], found["b"]) == (old, new)
    assert found["code"] == found["versions"] == []
    assert found["config"] == [
        {"part": "mixture", "field": "sample.train_pairs", "a": "420", "b": "400"},
        {"part": "run_config", "field": "training.learning_rate", "a": "0.0005", "b": "0.0001"},
    ]
    assert {"part": "mixture", "field": "train", "a": "420", "b": "400"} in found["data"]
    assert found["train_pairs"] == {"a": 420, "b": 400, "both": 400}
    assert FEWER["training.learning_rate"] == 1e-4


def test_a_checkpoint_does_not_differ_from_itself(lived_in: LivedIn, rmw: Rmw):
    answer = rmw("diff", "quickstart_checkpoint", "quickstart_checkpoint")
    assert answer.out.startswith("no change in data, code, config, versions\n")


def test_two_mixtures_share_the_pairs_that_both_hold(ask: Callable[..., Any], lived_in: LivedIn):
    old, new = (store_mixture(lived_in, checkpoint.version) for checkpoint in lived_in.checkpoints)
    found = ask("shared", old, new)
    assert (found["num_shared"], found["num_same_row"]) == (found["num_b"], found["num_b"])
    assert found["num_a"] - found["num_b"] == 20
    assert {(row["split_a"], row["split_b"]) for row in found["by_source"]} == {("train", "train"), ("test", "test")}


def store_mixture(lived_in: LivedIn, checkpoint: str) -> str:
    (artifact,) = (one for one in lived_in.checkpoints if one.version == checkpoint)
    tokens = next(one for one in lived_in.store.inputs_of(artifact) if one.kind == "tokens")
    return lived_in.store.inputs_of(tokens)[0].id


def test_the_worst_pairs_are_of_the_source_and_can_be_traced(ask: Callable[..., Any], lived_in: LivedIn):
    rows = ask("worst", "quickstart_checkpoint", "--source", "sample_ratings", "-n", "4")
    assert [row["source"] for row in rows] == ["sample_ratings"] * 4
    margins = [row["margin"] for row in rows]
    scores = lived_in.store.require("quickstart_scores").file("test_pairs.parquet")
    query = f"""
        select score_chosen - score_rejected as margin from '{scores}'
        where source = 'sample_ratings' order by margin limit 4
    """
    assert margins == [margin for (margin,) in duckdb.sql(query).fetchall()]
    assert margins[-1] < 0
    traced = ask("trace", rows[0]["pair_id"])
    assert {key: traced[key] for key in ("file", "row", "chosen", "rejected")} == {
        key: rows[0][key] for key in ("file", "row", "chosen", "rejected")
    }
    assert rows[0]["prompt"] == traced["prompt"]


def test_a_row_leads_to_all_checkpoints_that_were_trained_on_it(ask: Callable[..., Any], lived_in: LivedIn):
    tables = [
        next(one for one in lived_in.store.inputs_of(checkpoint) if one.kind == "tokens").file("pairs.parquet")
        for checkpoint in lived_in.checkpoints
    ]
    old, new = (
        {row[0] for row in duckdb.sql(f"select pair_id from '{path}' where split = 'train'").fetchall()}
        for path in tables
    )
    ids = [checkpoint.id for checkpoint in lived_in.checkpoints]
    assert ask("trace", min(new))["checkpoints"] == ids
    assert ask("trace", min(old - new))["checkpoints"] == ids[:1]


def test_the_history_counts_what_the_tables_hold(ask: Callable[..., Any], lived_in: LivedIn, tmp_path: Path):
    rows = ask("history", "quickstart_mixture", "--plot", str(tmp_path / "counts.png"))
    assert (tmp_path / "counts.png").read_bytes().startswith(PNG)
    by_version: dict[str, dict[str, int]] = {}
    for row in rows:
        by_rule = by_version.setdefault(row["version"], {})
        by_rule[row["rule"]] = by_rule.get(row["rule"], 0) + row["num_rows"]
    for version, by_rule in by_version.items():
        artifact = lived_in.store.find("quickstart_mixture", version)
        assert artifact is not None
        assert by_rule.pop("kept") == artifact.facts["kept"]
        assert by_rule == {rule: number for rule, number in artifact.facts["dropped"].items() if rule in by_rule}
        assert sum(by_rule.values()) == sum(artifact.facts["dropped"].values())
    raw = ask("history", "raw_sample_ratings", "--rule", "kept")
    assert [(row["event"], row["num_rows"]) for row in raw] == [("publish", 239), ("reuse", 239)]


def test_a_plot_replaces_a_plot_and_its_path_is_printed_without_escapes(lived_in: LivedIn, rmw: Rmw, tmp_path: Path):
    for _ in range(2):
        answer = rmw("history", "quickstart_mixture", "--plot", str(tmp_path / "a\x1b[2J.png"))
        assert answer.code == 0
        assert r"a\x1b[2J.png" in answer.err
        assert "\x1b" not in answer.err


def test_scores_lead_to_the_raw_files(ask: Callable[..., Any]):
    files = ask("lineage", "quickstart_scores", "--files")
    assert [row["file"] for row in files if "ratings" in row["file"]] == [
        "samples:ratings/test.jsonl",
        "samples:ratings/train.jsonl",
    ]
    assert all(re.fullmatch("[0-9a-f]{64}", row["sha256"]) for row in files)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("funnel quikstart", "recipe quikstart has no mixture under RMW_HOME"),
        ("history pairs_sample_rating", "no asset 'pairs_sample_rating' is counted"),
        ("history --source sample_rating", "no source 'sample_rating' is counted"),
        ("history --rule kep", "no rule 'kep' is counted"),
        ("diff quickstart_chekpoint quickstart_checkpoint", "checkpoint quickstart_chekpoint: no such folder"),
        ("shared quickstart_mixtur pairs_sample_ratings", "asset quickstart_mixtur has no artifact"),
        ("worst quickstart_chekpoint", "checkpoint quickstart_chekpoint: no such folder"),
        ("worst quickstart_checkpoint --source sample_rating", "has no test pairs of source sample_rating"),
        ("trace sample_rating:train.jsonl:1", "no raw asset under RMW_HOME has a file sample_rating:train.jsonl"),
        ("lineage quickstart_score", "asset quickstart_score has no artifact"),
    ],
)
def test_an_unknown_name_gets_a_sentence_with_the_nearest(command: str, told: str, lived_in: LivedIn, rmw: Rmw):
    answer = rmw(*command.split())
    assert answer.code == 1
    assert told in answer.error
    assert "did you mean '" in answer.error


def test_what_holds_no_pairs_shares_none(lived_in: LivedIn, rmw: Rmw):
    assert "quickstart_checkpoint@" in rmw("shared", "quickstart_mixture", "quickstart_checkpoint").error
