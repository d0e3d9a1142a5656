import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow.artifacts import ArtifactStore, Built, Request
from rm_workflow_tests.cli.conftest import Answer, Project

Rmw = Callable[..., Answer]


@pytest.fixture
def store(project: Project) -> ArtifactStore:
    """Five versions of one asset, which nobody uses."""
    store = ArtifactStore(project.home)

    def build(out: Path) -> Built:
        (out / "rows.txt").write_bytes(bytes(2_000_000))
        return Built({})

    for number in range(5):
        store.materialize(Request("pairs_toy", "pairs", "1", {"n": number}, requested=str(number)), build, "run")
    return store


def versions(store: ArtifactStore) -> int:
    return len(list(store.artifacts.glob("*/*")))


def test_nothing_is_touched_without_yes(store: ArtifactStore, rmw: Rmw):
    shown = json.loads(rmw("gc", "--keep", "2", "--json").out)
    assert (shown["removed"], shown["kept"], len(shown["garbage"])) == (False, 2, 3)
    assert {row["what"] for row in shown["garbage"]} == {"artifact"}
    assert shown["bytes"] == sum(row["bytes"] for row in shown["garbage"]) > 6_000_000
    assert versions(store) == 5
    table = rmw("gc").out
    assert "pairs_toy@" in table
    assert "3 artifacts stay; 4.0 MB would be freed; rmw gc --yes removes it" in table


def test_with_yes_it_is_gone_and_told(store: ArtifactStore, rmw: Rmw):
    answer = rmw("gc", "--keep", "1", "--yes")
    assert answer.code == 0, answer.err
    assert "1 artifacts stay; 8.0 MB freed" in answer.out
    assert versions(store) == 1
    assert json.loads(rmw("gc", "--keep", "1", "--yes", "--json").out)["garbage"] == []


def test_the_run_that_is_in_progress_is_asked_for(
    store: ArtifactStore, rmw: Rmw, project: Project, monkeypatch: pytest.MonkeyPatch
):
    from dagster import DagsterRunStatus, job, op

    from rm_workflow.assets.instance import open_instance, process_tags
    from rm_workflow.settings import load_settings

    @op
    def nothing() -> None: ...

    @job
    def toy() -> None:
        nothing()

    with open_instance(load_settings()) as instance:
        run = instance.create_run_for_job(toy, status=DagsterRunStatus.STARTED, tags=process_tags())
        first = Request("pairs_toy", "pairs", "1", {"n": 0}, requested="0")
        store.materialize(first, lambda out: Built({}), run.run_id)
        store.materialize(Request("pairs_toy", "pairs", "1", {"n": 4}, requested="4"), lambda out: Built({}), "other")
        garbage = json.loads(rmw("gc", "--keep", "1", "--json").out)["garbage"]
        assert f"pairs_toy@{first.version}" not in {row["name"] for row in garbage}
        assert len(garbage) == 3
        instance.report_run_failed(run)
        assert len(json.loads(rmw("gc", "--keep", "1", "--json").out)["garbage"]) == 4


def test_zero_versions_are_wrong_usage(store: ArtifactStore, rmw: Rmw):
    answer = rmw("gc", "--keep", "0")
    assert answer.code == 2
    assert "--keep" in answer.error


def test_verify_names_every_fault_and_its_mend(store: ArtifactStore, rmw: Rmw):
    assert rmw("verify").out == "5 artifacts and all events are as they were written\n"
    damaged, other = sorted(store.artifacts.glob("*/*"))[:2]
    (damaged / "rows.txt").write_bytes(b"\1" + bytes(1_999_999))
    (other / "manifest.json").write_text("{}")
    (store.events_folder / "00000003.publish.pairs_toy.json").write_text("")
    answer = rmw("verify", "pairs_toy", "--json")
    assert answer.code == 1
    shown = json.loads(answer.out)
    assert (shown["artifacts"], shown["events"]) == (5, 5)
    first, second, third = sorted(shown["faults"], key=lambda fault: ("events" in fault, "older" in fault))
    assert "file rows.txt is not what was published (its sha256 differs)" in first
    assert f"delete the folder artifacts/pairs_toy/{damaged.name} and run again" in first
    assert f"{other.name}/manifest.json is of an older store format" in second
    assert "00000003.publish.pairs_toy.json is damaged" in third
    assert rmw("verify").code == 1
    assert rmw("verify", "nothing").error.startswith("error: asset nothing has no artifact")
