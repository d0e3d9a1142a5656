"""Clocks that jump back or stand still: what is newest is told by sequence numbers and steps, never by a time."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rm_workflow import artifacts
from rm_workflow.artifacts import ArtifactStore, Built, Request
from rm_workflow.evaluation.parts import Parts
from rm_workflow.garbage import find_garbage
from rm_workflow.training import training_state
from rm_workflow_tests.faults import states

YEARS = {"back": [2030, 2029, 2001, 2028], "still": [2030] * 4}


def set_times(folder: Path, year: int) -> None:
    at = datetime(year, 1, 1, tzinfo=UTC).timestamp()
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (at, at))


@pytest.mark.parametrize("years", YEARS.values(), ids=YEARS)
def test_the_latest_artifact_is_the_last_one_published(memory: Path, years: list[int], monkeypatch: pytest.MonkeyPatch):
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(year, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(artifacts, "datetime", Clock)
    store = ArtifactStore(memory)
    versions = []
    for number, year in enumerate(years):
        request = Request("pairs_toy", "pairs", "1", {"n": number}, requested="r")
        made = store.materialize(request, lambda out: Built({}), "run").artifact
        set_times(made.folder, year)
        set_times(store.events_folder, year)
        versions.append(made.version)
        assert store.require("pairs_toy").version == store.require("pairs_toy", "r").version == versions[-1]
    del made
    assert [event["time"][:4] for event in store.events()] == [str(year) for year in years]
    assert [event["version"] for event in store.events()] == versions
    assert {artifact.version for artifact in find_garbage(store, 2).artifacts} == {*versions[:2]}


@pytest.mark.parametrize("years", YEARS.values(), ids=YEARS)
def test_the_newest_training_state_is_that_of_the_highest_step(memory: Path, years: list[int]):
    for step, year in enumerate(years, start=9):
        states.save(memory, step)
        set_times(memory / training_state.state_name(step), year)
        assert states.newest(memory) == step
    assert [state.step for state in training_state.kept_states(memory, 2)] == [12, 11]
    assert sorted(path.name for path in memory.iterdir()) == ["step_00000011", "step_00000012"]


def test_a_score_computed_again_takes_the_place_of_the_one_before(memory: Path):
    for number in range(11):
        parts = Parts(memory)
        parts.add([b"a"], [float(number)])
        parts.flush()
        set_times(memory, 2030 - number)
    assert Parts(memory).find([b"a"]) == [10.0]
