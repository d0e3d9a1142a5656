import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow.preferences import mixture, pairs, raw
from rm_workflow_tests.cli.conftest import Answer, Project, lines

Rmw = Callable[..., Answer]
PLANTED = Path(__file__).parents[2] / "data/samples/planted.json"


def test_the_quickstarts_counts_equal_the_planted_ones_rule_by_rule(project: Project, rmw: Rmw):
    answer = rmw("counts", "quickstart", "--json")
    assert answer.code == 0
    counted = json.loads(answer.out)
    planted = json.loads(PLANTED.read_text("utf-8"))["counts"]
    for stage, named in planted.items():
        assert list(counted[stage]) == list(named)
        for name, facts in named.items():
            assert {key: counted[stage][name][key] for key in facts} == facts
    assert counted["tokens"] is None


def test_the_counts_of_generated_native_rows_equal_the_planted_ones_rule_by_rule(project: Project, rmw: Rmw):
    planted = json.loads(PLANTED.read_text("utf-8"))["six_sources"]
    (project.folder / "catalog/recipes/six_sources.yaml").write_text(json.dumps(planted["recipe"]))
    counted = json.loads(rmw("counts", "six_sources", "--json").out)
    for stage, number in (("sources", 6), ("pair_sets", 6)):
        assert len(counted[stage]) == number
        assert {name: planted["counts"][stage][name] for name in counted[stage]} == {
            name: {key: facts[key] for key in planted["counts"][stage][name]} for name, facts in counted[stage].items()
        }
    mixture = counted["mixtures"]["six_sources_mixture"]
    assert {key: mixture[key] for key in planted["counts"]["mixture"]} == planted["counts"]["mixture"]


@pytest.mark.shared_rows
def test_the_real_hh_rows_are_dropped_as_the_contract_says(
    project: Project, rmw: Rmw, shared_rows: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RMW_HUB_MIRROR", str(shared_rows / "hub"))
    counted = json.loads(rmw("counts", "qwen25_7b_hh_lora_mini", "--json").out)
    sources, sets = counted["sources"].values(), counted["pair_sets"].values()
    dropped = {rule: sum(s["dropped"][rule] for s in sources) for rule in ("context_differs", "empty_message")}
    assert sum(s["rows"] for s in sources) == 4861
    assert dropped == {"context_differs": 9, "empty_message": 6}
    assert sum(s["dropped"]["not_alternating"] for s in sources) == 5
    assert sum(s["dropped"]["identical_responses"] for s in sets) == 30
    assert sum(s["kept"] for s in sets) == 4811


def test_a_second_run_calls_no_library_function(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    first = json.loads(rmw("run", "toy", "--until", "mixture", "--json").out)
    assert not any(asset["reused"] for asset in first["assets"].values())
    calls = []
    for module, name in ((raw, "build_raw"), (pairs, "build_pair_set"), (mixture, "build_mixture")):
        monkeypatch.setattr(module, name, lambda *args, name=name, **kwargs: calls.append(name))
    second = json.loads(rmw("run", "toy", "--until", "mixture", "--json").out)
    assert calls == []
    assert all(asset["reused"] for asset in second["assets"].values())
    versions = [{name: asset["version"] for name, asset in run["assets"].items()} for run in (first, second)]
    assert versions[0] == versions[1]


def test_changed_rows_make_new_versions_downstream(project: Project, rmw: Rmw):
    first = json.loads(rmw("run", "toy", "--until", "mixture", "--json").out)["assets"]
    project.write_rows(lines(range(99)))
    second = json.loads(rmw("run", "toy", "--until", "mixture", "--json").out)["assets"]
    assert all(first[name]["version"] != second[name]["version"] for name in first)


@pytest.mark.parametrize(("until", "stages"), [("raw", ["sources"]), ("pairs", ["sources", "pair_sets"])])
def test_a_run_until_an_early_stage_prints_the_funnel_up_to_it(project: Project, rmw: Rmw, until: str, stages: list):
    answer = rmw("run", "toy", "--until", until)
    assert answer.code == 0, answer.error
    assert [stage for stage in ("sources", "pair_sets", "mixtures") if stage in answer.out] == stages


def test_until_stops_at_the_stage(project: Project, rmw: Rmw):
    assets = json.loads(rmw("run", "toy", "--until", "pairs", "--json").out)["assets"]
    assert sorted(assets) == ["pairs_toy", "raw_toy"]


def test_an_overridden_run_is_not_the_latest_of_the_bare_name(project: Project, rmw: Rmw):
    bare = json.loads(rmw("run", "toy", "--until", "mixture", "--json").out)["assets"]
    override = ("--set", "mixture.sample={train_pairs: 7}")
    changed = json.loads(rmw("run", "toy", "--until", "mixture", "--json", *override).out)["assets"]
    assert changed["toy_mixture"]["version"] != bare["toy_mixture"]["version"]
    assert changed["pairs_toy"] == {**bare["pairs_toy"], "reused": True}
    counted = json.loads(rmw("counts", "toy", "--json", "--no-run").out)
    assert counted["mixtures"]["toy_mixture"]["train"] == 100
    lineage = json.loads(rmw("lineage", "toy_mixture", "--json").out)
    assert bare["toy_mixture"]["version"] in [node["version"] for node in lineage["nodes"]]


def test_null_removes_a_value_for_a_run(project: Project, rmw: Rmw):
    cut = ("--set", "mixture.sample={train_pairs: 7}")
    first = json.loads(rmw("run", "toy", "--until", "mixture", "--json", *cut).out)["assets"]
    answer = rmw(
        "run", "toy", "--until", "mixture", "--json", "--set", "mixture.sample=null", "--set", "training.lora=null"
    )
    assert answer.code == 0, answer.error
    changed = json.loads(answer.out)["assets"]
    assert changed["toy_mixture"]["version"] != first["toy_mixture"]["version"]
    assert changed["pairs_toy"] == {**first["pairs_toy"], "reused": True}


def test_counts_without_running_refuse_missing_data(project: Project, rmw: Rmw):
    answer = rmw("counts", "toy", "--no-run")
    assert answer.code == 1
    assert "rmw run toy --until mixture" in answer.error
    assert project.published() == []


def test_the_hint_for_a_recipe_file_names_the_file(project: Project, rmw: Rmw):
    (project.folder / "my files").mkdir()
    (project.folder / "my files/own.yaml").write_text("extends: toy\n")
    assert "rmw run './my files/own.yaml' --until mixture" in rmw("counts", "./my files/own.yaml", "--no-run").error
    hint = "rmw run './my files/own.yaml' --set mixture.sample.train_pairs=7 --until mixture"
    assert hint in rmw("plan", "./my files/own.yaml", "--set", "mixture.sample.train_pairs=7").out


def test_a_rebuilt_index_is_told_as_json(project: Project, rmw: Rmw):
    rmw("counts", "toy")
    answer = rmw("lineage", "rebuild", "--json")
    assert answer.code == 0
    assert json.loads(answer.out) == {"num_events": len(list(project.home.glob("events/*.json")))}


def test_lineage_reaches_the_raw_file(project: Project, rmw: Rmw):
    rmw("counts", "toy")
    chain = json.loads(rmw("lineage", "toy_mixture", "--json").out)
    files = [node for node in chain["nodes"] if node["kind"] == "file"]
    assert sorted(node["id"].rsplit("/", 1)[-1] for node in files) == ["test.jsonl", "train.jsonl"]
    assert all(len(node["version"]) == 64 for node in files)
    assert not any(str(project.folder) in node["id"] for node in files)


def test_a_dropped_row_can_be_shown_and_traced(project: Project, rmw: Rmw):
    same = json.dumps({"prompt": "Same?", "chosen": "Yes.", "rejected": "Yes."}) + "\n"
    project.write_rows(lines(range(20)) + same)
    rmw("counts", "toy")
    shown = json.loads(rmw("show", "pairs_toy", "--dropped", "identical_responses", "--json").out)
    assert len(shown) == 1
    assert shown[0]["rule"] == "identical_responses"
    assert rmw("show", "pairs_toy", "--dropped", "any").out.startswith("pairs_toy: 1 of 1 pairs dropped\n")
    assert rmw("show", "pairs_toy", "-n", "3").out.startswith("pairs_toy: 3 of 30 pairs kept\n")
    assert rmw("show", "raw_toy", "--dropped", "bad_field").out == "raw_toy: 0 of 0 rows dropped by bad_field\n"
    traced = json.loads(rmw("trace", "train.jsonl:21", "--json").out)
    assert traced["dropped_by"] == "identical_responses"
    told = rmw("trace", "train.jsonl:21").out
    assert f"pairs_toy: identical_responses: {traced['reason']}" in told
    assert "{" not in told
    assert "checkpoints" not in told
    assert "mixtures" not in told
    assert traced["mixtures"] == []
    kept = json.loads(rmw("trace", "train.jsonl:1", "--json").out)
    assert kept["dropped_by"] is None
    assert kept["mixtures"] == ["toy_mixture"]
    assert kept["checkpoints"] == []
    assert json.loads(rmw("trace", kept["pair_id"], "--json").out)["row"] == 1


def test_square_brackets_in_a_text_are_printed_as_they_are(project: Project, rmw: Rmw):
    marked = {"prompt": "[/INST] Hi?", "chosen": "good [bold]x[/bold]", "rejected": "bad"}
    project.write_rows(lines(range(5)) + json.dumps(marked) + "\n")
    rmw("counts", "toy")
    answer = rmw("trace", "train.jsonl:6")
    assert answer.code == 0
    assert "good [bold]x[/bold]" in answer.out
    assert "[/INST] Hi?" in answer.out


NOISE = """
import sys
import warnings
from rm_workflow.cli.main import main

sys.argv = ["rmw", "run", "toy", "--until", "mixture"]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
from tqdm.auto import tqdm
from transformers.utils import logging

list(tqdm(range(3), desc="Converting"))
list(logging.tqdm(range(3), desc="Loading weights"))
warnings.warn("Function `PipesMessageReader.expected_writer_count` is currently in preview, and may break")
"""


def test_stderr_holds_our_own_lines_and_no_bar_or_warning_of_a_library(project: Project):
    ran = subprocess.run([sys.executable, "-c", NOISE], capture_output=True, text=True, check=True, cwd=project.folder)
    assets = [line.split()[0] for line in ran.stderr.splitlines()]
    assert assets == ["raw_toy", "pairs_toy", "toy_mixture", "3"], ran.stderr
