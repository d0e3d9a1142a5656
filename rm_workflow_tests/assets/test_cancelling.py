"""A training of two processes under the real launcher, started in the web UI and ended in every way there is."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.instance import open_instance
from rm_workflow.settings import load_settings
from rm_workflow_tests.assets.browser import CHROMIUM, chromium_page
from rm_workflow_tests.assets.web import WebUi, wait_until, web_ui_of
from rm_workflow_tests.cli.conftest import Answer, Project, lines, project, rmw  # noqa: F401 (fixtures)
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.browser]

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


@pytest.fixture
def long_project(project: Project) -> Project:  # noqa: F811
    write_tiny_model(project.folder / "base", tiny_tokenizer())
    project.write_rows(lines(range(20)))
    write_recipe(project, epochs=400)
    return project


def write_recipe(project: Project, epochs: int) -> None:  # noqa: F811
    recipe = RECIPE.replace("BASE", str(project.folder / "base")).replace("EPOCHS", str(epochs))
    project.write_catalog(recipe=recipe)


@pytest.fixture
def web_ui(long_project: Project) -> Iterator[WebUi]:
    with web_ui_of(long_project.home, Path(__file__).parents[2]) as web_ui:
        yield web_ui


def processes_of(project: Project, named: str = "rm_workflow.training.entry") -> list[int]:  # noqa: F811
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


def train(web_ui: WebUi, project: Project) -> str:  # noqa: F811
    """Start the recipe and return its run once a step was taken."""
    before = {path: path.stat().st_size for path in metrics(project)}
    run_id = web_ui.launch("toy")

    def has_stepped() -> bool:
        assert web_ui.status(run_id) not in ("FAILURE", "SUCCESS", "CANCELED")
        return any(path.stat().st_size > before.get(path, 0) for path in metrics(project))

    wait_until(has_stepped, "the first step", 180)
    return run_id


def press_terminate(web_ui: WebUi, run_id: str) -> None:
    """Cancel a run by the button on its page, as its owner does."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian package chromium)")
    with chromium_page() as page:
        page.goto(f"{web_ui.address}/runs/{run_id}")
        page.get_by_role("button", name="Terminate").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Terminate").click()
        wait_until(lambda: web_ui.status(run_id) in ("CANCELING", "CANCELED"), "the run to be cancelled")


def metrics(project: Project) -> list[Path]:  # noqa: F811
    return list(project.home.glob("work/toy_checkpoint/*/metrics.jsonl"))


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


def recorded(project: Project, run_id: str) -> list[str]:  # noqa: F811
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
