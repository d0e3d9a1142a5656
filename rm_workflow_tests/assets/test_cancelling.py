"""Trainings under the real launcher, started in the web UI and ended in every way there is; a sweep among them."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.instance import open_instance
from rm_workflow.settings import load_settings
from rm_workflow_tests.assets.browser import CHROMIUM, chromium_page
from rm_workflow_tests.assets.web import WebUi, wait_until, web_ui_of
from rm_workflow_tests.cli.conftest import Answer, Project, lines, rmw  # noqa: F401 (fixtures)
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

pytestmark = [pytest.mark.slow(seconds=130), pytest.mark.browser]

RECIPE = """
base: BASE
mixture:
  pair_sets: [toy]
  split: {by: native}
tokens: {template: chatml, max_length: 128}
training:
  {learning_rate: 1e-3, batch_size: 4, epochs: EPOCHS, logging_steps: 1, precision: fp32, distributed: {processes: 2}}
evaluation: {precision: fp32}
"""
SWEPT = """
extends: toy
training: {epochs: EPOCHS, distributed: null}
sweep: {seed: [0, 1]}
"""


@pytest.fixture(scope="module")
def long_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project whose recipe ``toy`` trains long, and the sweeps ``short`` and ``long`` of its data."""
    project = Project(tmp_path_factory.mktemp("project"))
    write_tiny_model(project.folder / "base", tiny_tokenizer())
    project.write_rows(lines(range(20)))
    write_recipe(project, epochs=400)
    for name, epochs in (("short", 1), ("long", 400)):
        swept = SWEPT.replace("EPOCHS", str(epochs))
        (project.folder / f"catalog/recipes/{name}.yaml").write_text(swept)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        patch.setenv("RMW_HOME", str(project.home))
        patch.setenv("DAGSTER_HOME", str(project.home / "dagster"))
        patch.setenv("RMW_CATALOG", str(project.folder / "catalog"))
        patch.delenv("RMW_HUB_MIRROR", raising=False)
        yield project


def write_recipe(project: Project, epochs: int) -> None:
    recipe = RECIPE.replace("BASE", str(project.folder / "base"))
    project.write_catalog(recipe=recipe.replace("EPOCHS", str(epochs)))


@pytest.fixture(scope="module")
def web_ui(long_project: Project) -> Iterator[WebUi]:
    with web_ui_of(long_project.home, Path(__file__).parents[2]) as web_ui:
        yield web_ui


def test_one_run_of_a_sweep_is_launched_by_its_key_and_ends_with_a_card(long_project: Project, web_ui: WebUi):
    assert web_ui.wait_for_end(web_ui.launch("short_data")) == "SUCCESS"
    before = web_ui.run_ids()
    with browser() as page:
        page.goto(f"{web_ui.address}/locations/rm_workflow/jobs/short")
        page.get_by_role("button", name="Materialize").first.click()
        page.get_by_text("Select a partition or create one").click()
        page.get_by_text("s1", exact=True).locator("visible=true").first.click()
        page.get_by_text("Launch runs to materialize").click()
        page.get_by_role("button", name="Launch 1 run").click()
        wait_until(lambda: web_ui.run_ids() > before, "a run started by the button")
    (run_id,) = web_ui.run_ids() - before
    assert web_ui.wait_for_end(run_id) == "SUCCESS"
    tags = web_ui.tags(run_id)
    assert (tags["dagster/partition"], tags["rm_workflow/recipe"]) == ("s1", "short")
    assert len(tags["rm_workflow/recipe_version"]) == 12
    store = ArtifactStore(long_project.home)
    assert store.latest("short_card", partition="s1") is not None
    assert store.latest("short_checkpoint", partition="s0") is None


def test_a_sweep_that_is_cancelled_in_the_browser_leaves_no_trainer_and_starts_no_other_run(
    long_project: Project, web_ui: WebUi
):
    before = web_ui.run_ids()
    run_id = train(web_ui, long_project, "long")
    assert processes_of(long_project)
    press_terminate(web_ui, run_id)
    assert web_ui.wait_for_end(run_id) == "CANCELED"
    wait_until(lambda: not processes_of(long_project), "the end of all processes that trained")
    wait_until(lambda: not slots_held(), "the place in the pool")
    # Of the sweep, of the data that its runs share, and of the first of them.
    started = web_ui.run_ids() - before
    assert len(started) == 3
    assert {web_ui.status(one) for one in started} <= {"SUCCESS", "FAILURE", "CANCELED"}
    assert "long_checkpoint" not in long_project.published()


def processes_of(project: Project, named: str = "rm_workflow.training.entry") -> list[int]:
    """Return the processes that train for a home, the launcher among them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if named.encode() in arguments and str(project.home).encode() in arguments:
            found.append(int(folder.name))
    return found


def train(web_ui: WebUi, project: Project, recipe: str = "toy") -> str:
    """Start a recipe, all of it where it is a sweep, and return its run once a step was taken."""
    before = {path: path.stat().st_size for path in metrics(project, recipe)}
    run_id = web_ui.launch(recipe if recipe == "toy" else f"{recipe}_sweep")

    def has_stepped() -> bool:
        assert web_ui.status(run_id) not in ("FAILURE", "SUCCESS", "CANCELED")
        return any(path.stat().st_size > before.get(path, 0) for path in metrics(project, recipe))

    wait_until(has_stepped, "the first step", 180)
    return run_id


def press_terminate(web_ui: WebUi, run_id: str) -> None:
    """Cancel a run by the button on its page, as its owner does."""
    with browser() as page:
        page.goto(f"{web_ui.address}/runs/{run_id}")
        page.get_by_role("button", name="Terminate").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Terminate").click()
        wait_until(lambda: web_ui.status(run_id) in ("CANCELING", "CANCELED"), "the run to be cancelled")


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian package chromium)")
    with chromium_page() as page:
        yield page


def metrics(project: Project, recipe: str = "toy") -> list[Path]:
    return list(project.home.glob(f"work/{recipe}_checkpoint/*/metrics.jsonl"))


def slots_held() -> set[str]:
    with open_instance(load_settings()) as instance:
        return set(instance.event_log_storage.get_concurrency_run_ids())


def test_a_training_ends_whole_by_cancelling_by_a_killed_step_and_with_the_web_ui_and_goes_on(
    long_project: Project,
    web_ui: WebUi,
    rmw: Callable[..., Answer],  # noqa: F811
):
    cancelled = train(web_ui, long_project)
    assert slots_held() == {cancelled}
    assert len(processes_of(long_project)) == 3
    press_terminate(web_ui, cancelled)
    assert web_ui.wait_for_end(cancelled) == "CANCELED"
    wait_until(lambda: not processes_of(long_project), "the end of all processes that trained")
    wait_until(lambda: not slots_held(), "the place in the pool")

    killed = train(web_ui, long_project)
    (step,) = steps_of(killed)
    os.kill(step, signal.SIGKILL)
    assert web_ui.wait_for_end(killed) == "FAILURE"
    wait_until(lambda: not processes_of(long_project), "the end of all processes that trained")
    wait_until(lambda: not slots_held(), "the place in the pool", 180)
    wait_until(lambda: recorded(long_project, killed) == ["toy_checkpoint"], "the record of the killed step")

    train(web_ui, long_project)
    web_ui.interrupt()
    wait_until(lambda: not processes_of(long_project), "the end of all processes that trained")

    assert "toy_checkpoint" not in long_project.published()
    (work,) = {path.parent for path in metrics(long_project)}
    (state, *_) = sorted((work / "states").glob("step_*"))
    assert int(state.name.removeprefix("step_")) > 0
    answer = rmw("doctor", "--json")
    assert answer.code == 0, answer.out
    assert not slots_held()


def recorded(project: Project, run_id: str) -> list[str]:
    """Return the assets of a run whose failure stands among the events."""
    events = ArtifactStore(project.home).events(kinds=("failed_run",))
    return [event["asset"] for event in events if event["run_id"] == run_id]


def steps_of(run_id: str) -> list[int]:
    """Return the process that runs the step which trains: the parent of the launcher."""
    parents = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"accelerate.commands.launch" in arguments and os.environ["RMW_HOME"].encode() in environment:
            parents.add(parent)
    return sorted(parents)
