"""Kills at random moments of the data stage and of training; ``make kill-loop`` does a thousand, through all stages."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rm_workflow_tests.faults import kill_loop
from rm_workflow_tests.faults.kill_loop import Loop, Phase, with_twin
from rm_workflow_tests.faults.pipeline import Pipeline


@pytest.fixture
def loop(memory: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    (memory / "project").mkdir()
    for name in ("RMW_HOME", "RMW_CATALOG", "RMW_DEVICE", "RMW_THREADS", "DAGSTER_HOME"):
        # The loop sets them; they are put back as they were.
        monkeypatch.setenv(name, os.environ.get(name, ""))
    return Loop(Pipeline(memory / "project"), memory, seed=11, write=Ledger())


class Ledger:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def __call__(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def found(self) -> list[object]:
        """Return whatever should not be there."""
        return [line[name] for line in self.lines for name in ("lost", "partial", "error", "differs") if line.get(name)]


def test_the_data_stage_killed_20_times_loses_nothing_and_ends_as_its_unkilled_twin(loop: Loop):
    loop.kill(with_twin(Phase("data", loop.pipeline.prepare_data()), loop.folder), 20)
    assert loop.write.found() == []
    kills = [line for line in loop.write.lines if "kill" in line]
    assert [line["kill"] for line in kills] == list(range(1, 21))
    assert {frozenset(line["moment"]) for line in kills} == {
        frozenset({"seconds"}),
        frozenset({"call", "name", "path"}),
    }


def test_training_killed_3_times_goes_on_from_its_states_and_ends_as_its_unkilled_twin(loop: Loop):
    loop.kill(with_twin(Phase("training", loop.pipeline.prepare_training()), loop.folder), 3)
    assert loop.write.found() == []
    assert len([line for line in loop.write.lines if "kill" in line]) == 3


def test_a_ledger_is_added_to_and_summed_up(tmp_path: Path):
    ledger = tmp_path / "kills.jsonl"
    assert kill_loop._last_numbers(ledger) == (0, 0)
    lines = [
        {"kill": 1, "seed": 0, "phase": "data", "moment": {"seconds": 0.1}, "lost": [], "partial": ["half"]},
        {"kill": 2, "seed": 0, "phase": "models", "moment": {"seconds": 0.1}, "lost": ["x"], "partial": []},
        {"life": 1, "seed": 0, "phase": "models", "kills": 1, "error": "it did not start", "differs": []},
    ]
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert kill_loop._last_numbers(ledger) == (2, 1)
    rows = [line.split() for line in kill_loop.summary(ledger).splitlines()]
    assert rows[0] == ["phase", "kills", "lives", "lost", "partial", "repairs", "differ"]
    assert rows[1] == ["data", "1", "0", "0", "1", "0", "0"]
    assert rows[3] == ["models", "1", "1", "1", "0", "1", "0"]
    assert rows[-1] == ["all", "2", "1", "1", "1", "1", "0"]


def test_the_kills_of_a_call_are_shared_out_to_the_last_one():
    assert kill_loop._shares(1000, [*kill_loop.SHARES]) == {"data": 840, "assets": 60, "models": 90, "rmw": 10}
    assert sum(kill_loop._shares(7, ["data", "models"]).values()) == 7
