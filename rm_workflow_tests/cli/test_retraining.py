"""What schedules and sensors ask for, told by their own ticks on files that change; nothing is trained here."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from rm_workflow import hub
from rm_workflow.artifacts import Artifact, ArtifactStore, Built, Request
from rm_workflow.assets import retraining
from rm_workflow.assets.expected import data_state
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.instance import open_instance
from rm_workflow.assets.mixtures import guard_files
from rm_workflow.assets.publishing import external_files
from rm_workflow.catalog.models import Catalog
from rm_workflow.catalog.sweeps import run_of
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.definitions import build_definitions
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import RECIPE, Answer, Project, lines
from rm_workflow_tests.hub.hub_server import NEW, OLD, REPOSITORY, FakeHub

GUARDED = RECIPE.replace("split:", "decontaminate_files: [held_out.txt]\n  split:") + "promotion: {}\n"


def an_hour_ago(*paths: Path) -> None:
    """Let files have been written long ago; what was written a moment ago may be half written."""
    for path in paths:
        then = time.time() - 3600 - len(path.read_bytes())
        os.utime(path, (then, then))


def write_rows(project: Project, number: int) -> None:
    project.write_rows(lines(range(number)))
    an_hour_ago(*(project.folder / "rows").iterdir())


@pytest.fixture
def toy(project: Project) -> Project:
    held_out = project.folder / "catalog/recipes/held_out.txt"
    project.write_catalog(recipe=GUARDED)
    held_out.write_text("What is never asked?\n")
    write_rows(project, 20)
    an_hour_ago(held_out)
    return project


@pytest.fixture
def instance(toy: Project) -> Iterator[dg.DagsterInstance]:
    with open_instance(load_settings()) as instance:
        yield instance


def catalog() -> Catalog:
    return load_checked_catalog(load_settings())


class Ticks:
    """The ticks of ``toy_changed``, each with the cursor that the one before has left."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.cursor = instance, None
        self.sensor = build_definitions(catalog()).resolve_sensor_def("toy_changed")

    def next(self) -> dg.SensorResult:
        context = dg.build_sensor_context(self.instance, cursor=self.cursor, sensor_name="toy_changed")
        found = self.sensor(context)
        assert isinstance(found, dg.SensorResult)
        self.cursor = found.cursor
        return found

    def asks(self) -> dg.RunRequest:
        (request,) = self.next().run_requests or []
        return request

    def skips(self) -> str:
        found = self.next()
        assert not found.run_requests
        assert found.skip_reason is not None
        return str(found.skip_reason.skip_message)


@pytest.fixture
def ticks(instance: dg.DagsterInstance) -> Ticks:
    return Ticks(instance)


def trained(of: str | None = None) -> Artifact:
    """Publish the data as they are now, without rows, and scores of a checkpoint that was trained on them.

    Args:
        of: key of the run of a sweep.
    """
    settings, flow = load_settings(), Flow(catalog())
    store, recipe = ArtifactStore(settings.home), flow.catalog.recipes["toy"]
    recipe = run_of(recipe, of) if of else recipe
    for planned in flow.mixture(recipe).lineage():
        files = guard_files(recipe.mixture) if planned.kind == "mixture" else ()
        if planned.kind == "raw":
            files = external_files(hub.resolve_files(flow.catalog.sources[planned.name], settings))
        request = planned.request(tuple(planned.inputs(store).values()), overridden=False, external_files=files)
        made = store.materialize(request, lambda out: Built({}), "run").artifact
    request = Request("toy_scores", "scores", "1", {}, inputs=(made,), partition=of)
    store.materialize(request, lambda out: Built({"scores": {}}), "run")
    return made


def test_the_key_that_is_told_is_the_one_that_a_run_then_has(toy: Project, rmw: Callable[..., Answer]):
    flow = Flow(catalog())
    told = data_state(flow, flow.catalog.recipes["toy"], load_settings())
    assert not (toy.home / "artifacts").exists()
    answer = rmw("run", "toy", "--until", "mixture", "--json")
    assert answer.code == 0, answer.err
    assert told.key == ArtifactStore(toy.home).require("toy_mixture").version
    (toy.folder / "catalog/recipes/held_out.txt").write_text("Another question?\n")
    assert data_state(flow, flow.catalog.recipes["toy"], load_settings()).key != told.key


def test_a_sensor_asks_for_a_run_only_when_the_data_change(
    toy: Project,
    ticks: Ticks,
):
    first = ticks.asks()
    assert first.tags[retraining.WHY_TAG] == "toy: it has no scores yet"
    assert "has not come to scores" in ticks.skips()
    before = trained()
    assert first.run_key == f"{before.version}.1"
    assert ticks.skips() == "toy: its data have not changed since its newest scores"

    an_hour_ago(*(toy.folder / "rows").iterdir())
    (toy.folder / "rows/beside.jsonl").write_text("{}")
    assert "have not changed" in ticks.skips()

    write_rows(toy, 30)
    second = ticks.asks()
    assert second.tags[retraining.WHY_TAG] == "toy: raw_toy changed"
    after = trained()
    assert second.run_key == f"{after.version}.2"
    assert "have not changed" in ticks.skips()

    write_rows(toy, 20)
    assert ticks.asks().run_key == f"{before.version}.3"


def test_a_sensor_hashes_only_files_that_have_changed(toy: Project, ticks: Ticks, monkeypatch: pytest.MonkeyPatch):
    hashed: list[str] = []
    real = retraining.file_sha256
    monkeypatch.setattr(retraining, "file_sha256", lambda path: hashed.append(path.name) or real(path))
    ticks.asks()
    assert sorted(hashed) == ["held_out.txt", "test.jsonl", "train.jsonl"]
    hashed.clear()
    ticks.next()
    assert hashed == []
    with (toy.folder / "rows/train.jsonl").open("a") as file:
        file.write(lines(range(20, 21)))
    ticks.next()
    assert hashed == ["train.jsonl"]


def test_a_file_that_was_written_a_moment_ago_waits_for_the_next_tick(toy: Project, ticks: Ticks):
    toy.write_rows(lines(range(40)))
    assert "was written a moment ago" in ticks.skips()
    an_hour_ago(*(toy.folder / "rows").iterdir())
    ticks.asks()


@pytest.mark.parametrize("left", ["missing", "a folder", "no folder"])
def test_a_broken_source_is_a_sentence_and_no_crash(toy: Project, ticks: Ticks, left: str):
    file = toy.folder / "rows/train.jsonl"
    file.unlink()
    if left == "a folder":
        file.mkdir()
    if left == "no folder":
        (toy.folder / "rows").rename(toy.folder / "elsewhere")
    reason = ticks.skips()
    assert reason.startswith("toy: sources.yaml: source 'toy': path: ")
    assert reason.endswith(("or correct `files`", "or correct `path`"))
    assert "\n" not in reason


def test_a_damaged_store_is_a_sentence(toy: Project, ticks: Ticks):
    trained()
    for event in (toy.home / "events").glob("*.toy_scores.json"):
        event.write_text("{")
    assert "is damaged" in ticks.skips()


def test_while_a_run_of_the_recipe_goes_on_none_is_asked_for(ticks: Ticks, instance: dg.DagsterInstance):
    job = build_definitions(catalog()).resolve_job_def("toy")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=job.run_tags)
    assert ticks.skips() == f"toy: run {run.run_id[:8]} is not at its end yet"
    instance.report_run_failed(run)
    ticks.asks()


def test_the_schedule_asks_again_for_what_failed_and_skips_what_has_not_changed(
    instance: dg.DagsterInstance,
):
    schedule = build_definitions(catalog()).resolve_schedule_def("toy_retraining")

    def tick() -> object:
        return schedule(dg.build_schedule_context(instance))

    for _ in range(2):
        asked = tick()
        assert isinstance(asked, dg.RunRequest)
        assert asked.run_key is None
    trained()
    skipped = tick()
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "toy: its data have not changed since its newest scores"


def test_a_sweep_is_asked_for_where_one_of_its_runs_has_older_data(
    toy: Project,
    instance: dg.DagsterInstance,
):
    toy.write_catalog(recipe=RECIPE + "sweep: {data: {all: {}, some: {sample: {train_pairs: 8}}}}\n")
    ticks = Ticks(instance)
    assert [job.name for job in ticks.sensor.jobs] == ["toy_sweep"]
    ticks.asks()
    trained("all")
    assert "has not come to scores" in ticks.skips()
    trained("some")
    assert "have not changed" in ticks.skips()


def on_the_hub(project: Project, hub: FakeHub, follow: bool) -> None:
    """Let the rows of the toy recipe come from the hub, whose newest commit is OLD."""
    project.write_catalog(recipe=f"{RECIPE}retraining: {{follow_hub: {str(follow).lower()}}}\n")
    sources = project.folder / "catalog/sources.yaml"
    sources.write_text(sources.read_text().replace("path: ../rows", f"hub: {REPOSITORY}"))
    for commit, number in ((NEW, 30), (OLD, 20)):
        rows = {"train.jsonl": lines(range(number)), "test.jsonl": lines(range(1000, 1010))}
        hub.put(commit, {name: text.encode() for name, text in rows.items()})


@pytest.mark.parametrize("follow", [False, True])
def test_a_new_commit_of_the_hub_is_taken_only_where_the_recipe_follows_it(
    project: Project,
    fake_hub: FakeHub,
    follow: bool,
):
    on_the_hub(project, fake_hub, follow)
    with open_instance(load_settings()) as instance:
        ticks = Ticks(instance)
        ticks.asks()
        assert hub.locked_commit(REPOSITORY, load_settings()) is None
        trained()
        assert "have not changed" in ticks.skips()

        fake_hub.newest[REPOSITORY] = NEW
        if not follow:
            assert f"a newer commit {NEW[:12]} of {REPOSITORY}, which is not taken" in ticks.skips()
            assert hub.locked_commit(REPOSITORY, load_settings()) == OLD
            return
        asked = ticks.asks()
        assert asked.tags[retraining.WHY_TAG] == (
            f"toy: raw_toy changed; the newest commit {NEW[:12]} of {REPOSITORY} is read from now on"
        )
        assert hub.locked_commit(REPOSITORY, load_settings()) == NEW
        assert asked.run_key == f"{trained().version}.2"


def test_a_commit_that_lacks_a_file_and_a_hub_that_is_gone_are_told_and_change_nothing(
    project: Project,
    fake_hub: FakeHub,
):
    on_the_hub(project, fake_hub, follow=True)
    with open_instance(load_settings()) as instance:
        ticks = Ticks(instance)
        trained()
        del fake_hub.commits[REPOSITORY][NEW]["test.jsonl"]
        fake_hub.newest[REPOSITORY] = NEW
        assert f"test.jsonl is not in the newest commit {NEW[:12]} of {REPOSITORY}" in ticks.skips()
        fake_hub.refusal = (503, "")
        assert "is not known or not taken" in ticks.skips()
    assert hub.locked_commit(REPOSITORY, load_settings()) == OLD


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{cron: 0 3 * *}", "retraining.cron: '0 3 * *' has 4 fields where cron has five"),
        ("{cron: 0 25 * * 0}", "retraining.cron: '25' is no hour; write a number from 0 to 23"),
        ("{cron: 0 3 31 feb *}", "never comes: no such month has a day 31"),
        ("{timezone: Middle/Earth}", "retraining.timezone: no time zone is called 'Middle/Earth'"),
        ("{corn: 0 3 * * 0}", "unknown key 'retraining.corn' (did you mean 'cron'?)"),
    ],
)
def test_a_bad_time_is_one_sentence_when_the_recipe_is_read(
    project: Project,
    rmw: Callable[..., Answer],
    written: str,
    said: str,
):
    project.write_catalog(recipe=f"{RECIPE}retraining: {written}\n")
    answer = rmw("plan", "toy")
    assert answer.code != 0
    assert said in answer.error
    assert "toy.yaml:" in answer.error


@pytest.mark.parametrize("cron", ["*/15 * * * *", "0 3 1,15 * mon-fri", "5/20 0-6/2 29 2 *", "0 0 31 jan-mar SUN"])
def test_dagster_reads_the_times_that_are_let_through(project: Project, cron: str):
    project.write_catalog(recipe=f"{RECIPE}retraining: {{cron: '{cron}', timezone: Europe/Berlin}}\n")
    schedule = build_definitions(catalog()).resolve_schedule_def("toy_retraining")
    assert (schedule.cron_schedule, schedule.execution_timezone) == (cron, "Europe/Berlin")
