"""Scheduled retraining with the real daemon, trainer and scorer, on a tiny random model whose rows change."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.retraining import WHY_TAG
from rm_workflow.evaluation import promotion
from rm_workflow_tests.assets.web import WebUi, graphql, wait_until, web_ui_of
from rm_workflow_tests.cli.conftest import Project, row
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

pytestmark = pytest.mark.slow(seconds=390)

RECIPE = """
base: BASE
mixture:
  pair_sets: [toy]
  split: {by: native}
tokens: {template: chatml, max_length: 128}
training: {learning_rate: 1e-2, batch_size: 8, epochs: 3, precision: fp32}
evaluation: {precision: fp32, probes: {num_pairs: 0, num_prompt_ablated: 0}}
promotion: {}
retraining: {cron: '* * * * *'}
"""
RUN_SECONDS = 240
SELECTOR = '{repositoryLocationName: "rm_workflow", repositoryName: "__repository__", KIND: "NAME"}'
START_SCHEDULE = "mutation { startSchedule(scheduleSelector: SELECTOR) { __typename } }"
START_SENSOR = "mutation { startSensor(sensorSelector: SELECTOR) { __typename } }"
TICKS = """
query { instigationStateOrError(instigationSelector: SELECTOR) {
  ... on InstigationState { id ticks(limit: 50) { status skipReason runIds error { message } } } } }
"""
RUNS = "query { runsOrError { ... on Runs { results { runId status tags { key value } } } } }"


class Daemon:
    """The daemon of a running web UI, with its switches."""

    def __init__(self, web_ui: WebUi) -> None:
        self.web_ui = web_ui

    def _ask(self, query: str, kind: str = "", name: str = "") -> dict[str, Any]:
        selector = SELECTOR.replace("KIND", kind).replace("NAME", name)
        return graphql(self.web_ui.address, query.replace("SELECTOR", selector), {})

    def switch_on(self, name: str, kind: str = "sensor") -> None:
        query = START_SENSOR if kind == "sensor" else START_SCHEDULE
        answer = self._ask(query, f"{kind}Name", name)
        assert next(iter(answer.values()))["__typename"] in ("Sensor", "ScheduleStateResult"), answer

    def switch_off_schedule(self, name: str) -> None:
        identity = self._ask(TICKS, "name", name)["instigationStateOrError"]["id"]
        stop = "mutation ($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
        answer = graphql(self.web_ui.address, stop, {"id": identity})
        assert answer["stopRunningSchedule"]["__typename"] == "ScheduleStateResult", answer

    def ticks(self, name: str) -> list[dict[str, Any]]:
        """Return the ticks of a schedule or sensor, newest first; none of them may have crashed."""
        found = self._ask(TICKS, "name", name)["instigationStateOrError"].get("ticks", [])
        assert [tick["error"] for tick in found if tick["error"]] == []
        return found

    def sentences(self, name: str) -> list[str]:
        return [tick["skipReason"] for tick in self.ticks(name) if tick["skipReason"]]

    def wait_for_sentence(self, name: str, part: str) -> None:
        wait_until(lambda: any(part in said for said in self.sentences(name)), f"{name} to say {part!r}", RUN_SECONDS)

    def wait_for_run(self, name: str, number: int, status: str = "SUCCESS") -> dict[str, str]:
        """Wait for the end of the run that a schedule or sensor has asked for as its so manyth, and return its tags."""
        asked: list[str] = []

        def is_asked() -> bool:
            asked[:] = [run for tick in reversed(self.ticks(name)) for run in tick["runIds"]]
            return len(asked) >= number

        wait_until(is_asked, f"run {number} of {name}", RUN_SECONDS)
        assert self.web_ui.wait_for_end(asked[number - 1], RUN_SECONDS) == status
        (run,) = [run for run in self.runs() if run["runId"] == asked[number - 1]]
        return {tag["key"]: tag["value"] for tag in run["tags"]}

    def runs(self) -> list[dict[str, Any]]:
        return list(self._ask(RUNS)["runsOrError"]["results"])


def write_rows(project: Project, numbers: range, turned: bool = False) -> None:
    """Write train rows; turned ones teach the opposite of what the test rows hold."""
    rows = [row(number) for number in numbers]
    if turned:
        rows = [{**one, "chosen": one["rejected"], "rejected": one["chosen"]} for one in rows]
    project.write_rows("".join(json.dumps(one) + "\n" for one in rows))
    test = "".join(json.dumps(row(number)) + "\n" for number in range(1000, 1040))
    (project.folder / "rows/test.jsonl").write_text(test)


@pytest.fixture
def toy(project: Project) -> Project:
    write_tiny_model(project.folder / "base", tiny_tokenizer())
    shutil.copy(Path(__file__).parents[2] / "workspace.yaml", project.folder)
    write_rows(project, range(40))
    project.write_catalog(recipe=RECIPE.replace("BASE", str(project.folder / "base")))
    return project


def checkpoints(store: ArtifactStore) -> Callable[[str], list[str]]:
    return lambda kind: [f"{one['asset']}@{one['version']}" for one in store.events(kinds=(kind,))]


@pytest.mark.timeout(1200)
def test_changed_rows_are_retrained_on_and_the_gate_decides(toy: Project):
    with web_ui_of(toy.home, toy.folder) as web_ui:
        daemon, store = Daemon(web_ui), ArtifactStore(toy.home)
        of_kind = checkpoints(store)
        for name in ("retraining_succeeded", "retraining_failed"):
            daemon.switch_on(name)
        daemon.switch_on("toy_retraining", "schedule")
        assert daemon.wait_for_run("toy_retraining", 1)[WHY_TAG] == "toy: it has no scores yet"
        first = promotion.main_of(store, "toy")
        assert first is not None
        daemon.wait_for_sentence("toy_retraining", "toy: its data have not changed since its newest scores")
        daemon.switch_off_schedule("toy_retraining")
        daemon.wait_for_sentence("retraining_succeeded", f"toy: {first} is main now (on test: 1.000")

        daemon.switch_on("toy_changed")
        daemon.wait_for_sentence("toy_changed", "toy: its data have not changed")
        (toy.folder / "rows/train.jsonl").rename(toy.folder / "rows/away.jsonl")
        daemon.wait_for_sentence("toy_changed", "file train.jsonl is missing")

        write_rows(toy, range(40), turned=True)
        assert daemon.wait_for_run("toy_changed", 1)[WHY_TAG] == "toy: raw_toy changed"
        (refused,) = of_kind(promotion.REFUSAL)
        assert (promotion.main_of(store, "toy"), refused != first) == (first, True)
        daemon.wait_for_sentence("retraining_succeeded", f"toy: {refused} stays a candidate because of the gate: worse")

        write_rows(toy, range(50))
        daemon.wait_for_run("toy_changed", 2)
        assert of_kind(promotion.PROMOTION) == [first, promotion.main_of(store, "toy")]
        assert len(set(of_kind(promotion.PROMOTION))) == 2
        daemon.wait_for_sentence("retraining_succeeded", "; not worse than main on test)")
        assert [run["status"] for run in daemon.runs()] == ["SUCCESS"] * 3

        main = promotion.main_of(store, "toy")
        toy.write_rows("no row at all\n" * 5)
        assert daemon.wait_for_run("toy_changed", 3, "FAILURE")[WHY_TAG] == "toy: raw_toy changed"
        daemon.wait_for_sentence("retraining_failed", "toy: the retraining failed, so main stays: raw_toy: ")
        (failed,) = store.events(kinds=("failed_run",))
        assert failed["asset"] == "raw_toy"
        assert daemon.sentences("retraining_failed")[0].endswith(failed["error"])
        assert promotion.main_of(store, "toy") == main
