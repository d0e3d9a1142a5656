"""A sweep through the real command line, Dagster, trainer and scorer on a tiny random model."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.access import RECIPE_TAG
from rm_workflow.assets.instance import open_instance
from rm_workflow.catalog.yaml_file import shown_path
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.definitions import build_definitions
from rm_workflow.evaluation import promotion
from rm_workflow.lineage.store import LineageStore
from rm_workflow.settings import load_settings
from rm_workflow_tests.assets.web import wait_until
from rm_workflow_tests.cli.conftest import Answer, Project, lines
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

Rmw = Callable[..., Answer]

RECIPE = """
base: BASE
mixture:
  pair_sets: [toy]
  split: {by: native}
tokens: {template: chatml, max_length: 128}
training: {learning_rate: 1e-3, batch_size: 8, precision: fp32}
evaluation: {precision: fp32, probes: {num_pairs: 0, num_prompt_ablated: 0}}
SWEEP
"""
TWO_BY_TWO = "sweep: {data: {all: {}, some: {sample: {train_pairs: 8}}}, runs: [RUNS]}".replace(
    "RUNS", "{data: all, seed: 0}, {data: all, seed: 1}, {data: some, seed: 0}"
)
GOLD = "toy_gold: {path: ROWS, files: {test: [gold.jsonl]}, scoring: best_of_n, licence: CC0}\n"
KEYS = ["all__s0", "all__s1", "some__s0"]


def write_recipe(project: Project, sweep: str) -> None:
    recipe = RECIPE.replace("BASE", str(project.folder / "base")).replace("SWEEP", sweep)
    project.write_catalog(recipe=recipe)


@pytest.fixture
def swept(project: Project) -> Project:
    write_tiny_model(project.folder / "base", tiny_tokenizer())
    project.write_rows(lines(range(20)))
    write_recipe(project, TWO_BY_TWO)
    return project


def compare_with_gold(project: Project) -> None:
    """Add a benchmark whose solutions are known to be right or wrong, and compare the test split with it."""
    solved = [{"prompt": f"{n} + 1?", "answers": [f"{n + 1}", f"{n + 2}"], "label": [1, 0]} for n in range(6)]
    (project.folder / "rows/gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in solved))
    (project.folder / "catalog/benchmarks.yaml").write_text(GOLD.replace("ROWS", str(project.folder / "rows")))
    recipe = project.folder / "catalog/recipes/toy.yaml"
    scored = recipe.read_text().replace("evaluation: {", "evaluation: {evaluate_on: [test, toy_gold], ")
    recipe.write_text(scored.replace("sweep: {", "sweep: {transfer: {gold: toy_gold, n: 2}, "))


def made(answer: Answer) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    found: dict[str, Any] = json.loads(answer.out)
    return found


@pytest.mark.slow(seconds=120)
def test_a_sweep_makes_shared_data_once_and_a_table_and_a_main(swept: Project, rmw: Rmw):
    compare_with_gold(swept)
    first = made(rmw("run", "toy", "--json"))
    assert first["checkpoint"].startswith("toy_checkpoint[all__s0]@")

    runs = made(rmw("run", "toy", "--sweep", "--json"))["runs"]
    assert list(runs) == KEYS
    checkpoints = [run["checkpoint"] for run in runs.values()]
    assert len(set(checkpoints)) == 3
    assert checkpoints[0] == first["checkpoint"]
    assert all(asset["reused"] for asset in runs["all__s0"]["assets"].values())
    assert not runs["all__s1"]["assets"]["toy_checkpoint"]["reused"]
    tokens = [runs[key]["assets"]["toy_all_tokens"]["version"] for key in KEYS[:2]]
    assert tokens[0] == tokens[1]
    published = [Path(path).name for path in (swept.home / "artifacts").iterdir()]
    assert {"toy_all_mixture", "toy_some_mixture", "toy_all_tokens", "toy_some_tokens", "toy_best"} <= set(published)
    assert "toy_mixture" not in published

    table = made(rmw("runs", "toy", "--json"))
    rows = table["runs"]["test"]
    assert sorted(row["run"] for row in rows) == KEYS
    assert rows[0]["score"] == max(row["score"] for row in rows)
    assert all(row["ci_low"] <= row["score"] <= row["ci_high"] for row in rows)
    (spread,) = table["seeds"]["test"]
    assert (spread["data"], spread["seeds"]) == ("all", 2)
    best = f"toy_checkpoint@{ArtifactStore(swept.home).latest('toy_checkpoint', partition=rows[0]['run']).version}"
    assert table["main"] == best
    # The first run was main as long as there was no better one.
    *_, event = promotions = table["promotions"]
    (transfer,) = table["transfer"]
    assert (transfer["benchmark"], transfer["figure"], transfer["gold"]) == ("test", "overall", "toy_gold")
    assert (transfer["n"], transfer["problems"], transfer["verdict"]) == (3, 6, "too few runs to tell")
    scored = {row["run"]: row["score"] for row in table["runs"]["toy_gold"]}
    assert {run: gold for run, _, gold in transfer["points"]} == pytest.approx(scored)
    stored = ArtifactStore(swept.home).latest("toy_transfer")
    assert stored.facts["transfer"] == table["transfer"]
    assert stored.manifest["checks"] == []
    assert [promotions[0]["num_candidates"], promotions[0]["partition"]] == [1, "all__s0"]
    assert (event["partition"], event["score"]) == (rows[0]["run"], rows[0]["score"])

    again = made(rmw("run", "toy", "--sweep", "--json"))["runs"]
    assert all(asset["reused"] for run in again.values() for asset in run["assets"].values())
    assert made(rmw("runs", "toy", "--json"))["promotions"] == promotions

    counts = made(rmw("counts", "toy", "--no-run", "--json"))
    assert sorted(counts["mixtures"]) == ["toy_all_mixture", "toy_some_mixture"]

    funnel = made(rmw("funnel", "toy", "--json"))
    assert {"toy_all_mixture", "toy_some_mixture"} <= {row["asset"] for row in funnel}
    standing = {row["run"]: row["selected_among"] for row in made(rmw("leaderboard", "--benchmark", "test", "--json"))}
    assert standing == {**dict.fromkeys(KEYS), rows[0]["run"]: 3}
    card = rmw("card", f"toy_checkpoint[{rows[0]['run']}]")
    assert "This checkpoint was chosen among 3 runs by its score on test" in card.out
    report = swept.folder / "report.html"
    assert rmw("report", "-o", str(report)).code == 0
    assert f"toy_checkpoint[{rows[0]['run']}]@" in report.read_text("utf-8")

    other = next(key for key in KEYS if key != rows[0]["run"])
    promoted = made(rmw("promote", f"toy_checkpoint[{other}]", "--json"))
    assert (promoted["changed"], promoted["event"]["previous"]) == (True, best)
    assert promoted["event"]["partition"] == other
    told = LineageStore(ArtifactStore(swept.home)).rows("from promotion order by sequence")
    assert [(row["event"], row["partition"]) for row in told[-2:]] == [
        *(("promotion", rows[0]["run"]), ("promotion", other))
    ]
    back = made(rmw("rollback", "toy", "--json"))
    assert (back["main"], back["event"]["kind"]) == (best, "rollback")

    refused = rmw("compare", "toy_checkpoint", "toy_checkpoint")
    assert "has 3 runs; name one, for instance toy_checkpoint[all__s0]" in refused.error
    assert "no run all__s9" in rmw("promote", "toy_checkpoint[all__s9]").error

    more_candidates_than_there_are_are_refused(swept, rmw)


def more_candidates_than_there_are_are_refused(swept: Project, rmw: Rmw) -> None:
    """Ask for the best of 8 of 2 candidates: a table of the runs that are there is printed, no other run is trained."""
    recipe = swept.folder / "catalog/recipes/toy.yaml"
    recipe.write_text(recipe.read_text().replace("n: 2", "n: 8").replace("learning_rate: 1e-3", "learning_rate: 2e-3"))
    trained = sorted((swept.home / "artifacts/toy_checkpoint").iterdir())
    refused = rmw("run", "toy", "--sweep").err.splitlines()[-1]
    line = next(number for number, text in enumerate(recipe.read_text().splitlines(), start=1) if "n: 8" in text)
    assert refused == (
        f"error: {shown_path(recipe)}:{line}: recipe 'toy': sweep.transfer.n is 8, and a problem of 'toy_gold' has no "
        "more than 2 candidates; lower it to 2, or leave it out to choose among all"
    )
    assert rmw("plan", "toy").error == refused
    assert rmw("run", "toy", "--key", "all__s0").err.splitlines()[-1] == refused
    assert sorted((swept.home / "artifacts/toy_checkpoint").iterdir()) == trained

    recipe.write_text(recipe.read_text().replace("learning_rate: 2e-3", "learning_rate: 1e-3"))
    answer = rmw("runs", "toy")
    (warning,) = (line for line in answer.err.splitlines() if line.startswith("warning: "))
    assert "sweep.transfer.n is 8" in warning
    assert "of the gold set has 2 candidates; lower it" in warning
    assert "correlation over runs" not in answer.out
    assert "main of toy: " in answer.out


@pytest.mark.slow
def test_a_run_that_fails_hinders_no_other_and_is_made_by_the_next_command(swept: Project, rmw: Rmw):
    write_recipe(swept, "sweep: {learning_rate: [1e-3, 1e+9], seed: [0]}")
    answer = rmw("run", "toy", "--sweep", "--json")
    found = json.loads(answer.out)
    assert answer.code == 1
    assert list(found["runs"]) == ["lr1e-3__s0"]
    assert list(found["failed"]) == ["lr1e9__s0"]
    assert "1 of 2 runs failed (lr1e9__s0: the loss of step" in answer.err
    assert "the same command does these again" in answer.err


@pytest.mark.slow(seconds=130)
def test_a_sweep_that_is_killed_goes_on_with_its_unfinished_runs(swept: Project, rmw: Rmw):
    command = [sys.executable, "-m", "rm_workflow.cli.main", "run", "toy", "--sweep"]
    finished = swept.home / "artifacts/toy_scores"
    with subprocess.Popen(command, cwd=swept.folder, start_new_session=True) as sweep:
        wait_until(lambda: list(finished.glob("*/manifest.json")), "the first run's scores")
        os.killpg(sweep.pid, signal.SIGKILL)
    before = {path.parent.name for path in (swept.home / "artifacts").glob("toy_checkpoint/*/manifest.json")}
    assert before

    runs = made(rmw("run", "toy", "--sweep", "--json"))["runs"]
    assert list(runs) == KEYS
    trained = {
        run["assets"]["toy_checkpoint"]["version"]: run["assets"]["toy_checkpoint"]["reused"] for run in runs.values()
    }
    assert {version for version, reused in trained.items() if reused} == before
    assert len(trained) == 3


@pytest.mark.slow
def test_one_job_makes_a_whole_sweep_and_fails_with_the_sentence_of_a_failed_run(swept: Project):
    write_recipe(swept, "sweep: {learning_rate: [1e-3, 1e+9], seed: [0]}")
    job = build_definitions(load_checked_catalog(load_settings())).resolve_job_def("toy_sweep")
    with open_instance(load_settings()) as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        runs = instance.get_runs()
    (failure,) = [event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure]
    assert failure is not None
    assert str(failure.description).startswith("1 of 2 runs failed (lr1e9__s0: the loss of step")
    ended = sorted((run.job_name, run.status.value) for run in runs)
    of_runs = [("toy", "FAILURE"), ("toy", "SUCCESS")]
    assert ended == [*of_runs, ("toy_data", "SUCCESS"), ("toy_promotion", "SUCCESS"), ("toy_sweep", "FAILURE")]
    assert {run.tags.get(RECIPE_TAG) for run in runs} == {"toy"}
    (event,) = promotion.history(ArtifactStore(swept.home), "toy")
    assert event["partition"] == "lr1e-3__s0"


def test_sweep_of_a_recipe_without_one_is_refused(swept: Project, rmw: Rmw):
    write_recipe(swept, "")
    assert "has no sweep" in rmw("run", "toy", "--sweep").error
    write_recipe(swept, "sweep: {seed: [0, 1]}")
    assert "has no run s7" in rmw("run", "toy", "--key", "s7").error
    assert "set sweep.seed instead" in rmw("run", "toy", "--set", "training.seed=3").error


def test_who_makes_the_first_run_alone_is_told_how_many_there_are(swept: Project, rmw: Rmw):
    write_recipe(swept, "sweep: {seed: [0, 1]}")
    told = "this was s0, the first of 2 runs; --sweep makes all\n"
    assert rmw("run", "toy", "--until", "pairs", "--json").err.endswith(told)
    for asked in (("--sweep",), ("--key", "s0")):
        answer = rmw("run", "toy", "--until", "pairs", *asked)
        assert (answer.code, "the first of" in answer.err) == (0, False)


POISONED = """
base: BASE
mixture: {pair_sets: [toy, poison], split: {by: native}}
tokens: {template: chatml, max_length: 128}
training: {learning_rate: 1e-2, batch_size: 8, epochs: 3, precision: fp32}
evaluation: {evaluate_on: [right_answers], precision: fp32}
sweep: {data: leave_one_out}
promotion: {metric: right_answers}
"""
RIGHT_ANSWERS = """
right_answers:
  path: ../rows
  files: {test: [test.jsonl]}
  scoring: preferences
  licence: CC0-1.0
"""


@pytest.mark.slow(seconds=90)
def test_what_a_poisoned_source_costs_is_told_by_leaving_it_out(swept: Project, rmw: Rmw):
    swept.write_catalog(recipe=POISONED.replace("BASE", str(swept.folder / "base")))
    catalog = swept.folder / "catalog"
    (catalog / "benchmarks.yaml").write_text(RIGHT_ANSWERS)
    for file in ("sources.yaml", "pair_sets.yaml"):
        entry = (catalog / file).read_text()
        poison = entry.replace("toy", "poison").replace("train.jsonl], test: [test.jsonl]", "poison.jsonl]")
        (catalog / file).write_text(entry + poison)
    swept.write_rows(lines(range(24)))
    poisoned = [json.loads(line) for line in lines(range(100, 172)).splitlines()]
    for row in poisoned:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    (swept.folder / "rows/poison.jsonl").write_text("".join(json.dumps(row) + "\n" for row in poisoned))
    (swept.folder / "rows/test.jsonl").write_text(lines(range(1000, 1040)))

    runs = made(rmw("run", "toy", "--sweep", "--json"))["runs"]
    assert list(runs) == ["all", "without_toy", "without_poison"]
    table = made(rmw("runs", "toy", "--json"))
    earned = {row["part"]: row for row in table["attribution"] if row["figure"] == "overall"}
    scores = {row["run"]: row["score"] for row in table["runs"]["right_answers"]}
    assert earned["poison"]["verdict"] == "costs"
    assert earned["poison"]["earns"] == pytest.approx(scores["all"] - scores["without_poison"])
    assert earned["poison"]["earns"] < earned["toy"]["earns"]
    assert table["main"] == ArtifactStore(swept.home).latest("toy_checkpoint", partition="without_poison").id
