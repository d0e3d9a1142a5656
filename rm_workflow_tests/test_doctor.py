"""Each fault of a machine or a home is found and told with its mend."""

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from rm_workflow import doctor
from rm_workflow.assets.instance import open_instance
from rm_workflow.settings import Settings, load_settings
from rm_workflow_tests.cli.conftest import Answer, Project, project, rmw  # noqa: F401 (fixtures)

GIGABYTE = doctor.GIGABYTE


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    # Which opening its instance exports.
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home/dagster"))
    return load_settings()


def test_versions_outside_their_ranges_are_named(monkeypatch: pytest.MonkeyPatch):
    asked = ["duckdb<1", "numpy>=2", "no-such-package>=1", 'other>=1; extra == "test"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: asked)
    found = [(finding.level, finding.found) for finding in doctor.packages()]
    assert found == [
        ("error", f"duckdb is {doctor.metadata.version('duckdb')}, and <1 was tested"),
        ("error", "no-such-package is not installed"),
    ]


def test_what_is_installed_here_is_what_was_tested():
    assert [finding.level for finding in doctor.packages()] == ["ok"]


@pytest.mark.parametrize(("free", "level"), [(0.5, "error"), (5, "warning"), (50, "ok")])
def test_a_full_disk_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch, free: float, level: str):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free * GIGABYTE))
    finding = doctor.disk(settings.home)
    assert finding.level == level
    assert ("rmw gc" in finding.mend) == (level != "ok")


@pytest.mark.parametrize(("free", "level"), [(1, "warning"), (10, "ok")])
def test_little_memory_is_told(monkeypatch: pytest.MonkeyPatch, free: float, level: str):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free * GIGABYTE))
    assert doctor.memory().level == level


def test_limits_of_the_shell_are_told(monkeypatch: pytest.MonkeyPatch):
    low = {resource.RLIMIT_NOFILE: 256, resource.RLIMIT_FSIZE: 1000}
    infinite = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda name: (low.get(name, infinite), infinite))
    assert [finding.mend for finding in doctor.limits()] == ["run ulimit -n 1024", "run ulimit -f unlimited"]


def test_a_network_file_system_is_told(tmp_path: Path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "40 22 0:35 / /shared\\040disk rw shared:20 - nfs4 server:/export rw\n"
        "41 40 8:2 / /shared\\040disk/local rw shared:21 - xfs /dev/sdb1 rw\n"
    )
    kinds = {
        path: doctor.file_system(Path(path), mounts) for path in ("/shared disk/home", "/shared disk/local/a", "/x")
    }
    assert [finding.level for finding in kinds.values()] == ["warning", "ok", "ok"]
    assert [finding.found for finding in kinds.values()][1:] == ["xfs", "ext4"]


def test_what_a_killed_build_left_is_removed(settings: Settings):
    left = settings.home / "staging" / "0123"
    left.mkdir(parents=True)
    (left / "half.parquet").write_text("half")
    assert doctor.staging(settings).found.startswith("1 unfinished")
    assert not left.exists()


def switch_on(settings: Settings, schedule: str) -> None:
    location = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name="rm_workflow.definitions"))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "repository"), schedule)
    with open_instance(settings) as instance:
        data = ScheduleInstigatorData("0 3 * * *", start_timestamp=None)
        state = InstigatorState(origin, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, data)
        instance.add_instigator_state(state)


def test_a_sensor_that_nobody_switched_on_counts_for_nothing(settings: Settings):
    location = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name="rm_workflow.definitions"))
    sensor = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "repository"), "killed_steps")
    with open_instance(settings) as instance:
        # The daemon notes so what is on by its definition.
        declared = InstigatorState(
            sensor, InstigatorType.SENSOR, InstigatorStatus.DECLARED_IN_CODE, SensorInstigatorData()
        )
        instance.add_instigator_state(declared)
    assert doctor.schedules(settings).found == "none is switched on"


@pytest.mark.parametrize("schedule", ["quickstart_retraining", "retrain_every_night"])
def test_a_schedule_that_is_on_without_a_daemon_is_told(settings: Settings, schedule: str):
    assert doctor.schedules(settings).level == "ok"
    switch_on(settings, schedule)
    finding = doctor.schedules(settings)
    assert finding == doctor.Finding(
        "schedules", "warning", f"{schedule}: switched on, but no daemon lives", "start rmw ui"
    )


@pytest.mark.parametrize("switch", ["gone_retraining", "gone_changed"])
def test_a_schedule_whose_recipe_is_gone_is_told(settings: Settings, switch: str):
    switch_on(settings, switch)
    switch_on(settings, "quickstart_retraining")
    finding = doctor.schedules(settings)
    assert (finding.level, finding.found) == ("warning", f"{switch}: switched on, but the recipe is gone")


def test_a_damaged_lock_of_hub_revisions_is_an_error(settings: Settings):
    (settings.home / "hub_lock.json").write_text("[")
    levels = {finding.name: finding for finding in doctor.examine(settings)}
    assert levels["hub"].level == "error"
    assert "restore it, or delete it" in levels["hub"].found


def test_a_home_that_cannot_be_written_ends_the_examination(settings: Settings):
    shutil.rmtree(settings.home)
    settings.home.write_text("a file")
    *_, last = doctor.examine(settings)
    assert (last.name, last.level) == ("home", "error")


def test_the_verb_exits_with_1_where_something_stops_work(
    project: Project,  # noqa: F811
    rmw: Callable[..., Answer],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    answer = rmw("doctor", "--json")
    assert answer.code == 0, answer.out
    assert {finding["level"] for finding in json.loads(answer.out)} <= {"ok", "warning"}

    def broken(settings: Settings) -> Iterator[doctor.Finding]:
        yield doctor.Finding("disk", "error", "full", "free space")

    monkeypatch.setattr(doctor, "examine", broken)
    answer = rmw("doctor")
    assert answer.code == 1
    assert "free space" in answer.out
