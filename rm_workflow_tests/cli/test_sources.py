import json
from collections.abc import Callable

import pytest

from rm_workflow import hub
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import Answer, Project

Rmw = Callable[..., Answer]
OLD, NEW = "a" * 40, "b" * 40
HH = "Anthropic/hh-rlhf"


@pytest.fixture(autouse=True)
def newest(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The newest commit that the hub tells: the last one of this list."""
    commits = [OLD]
    monkeypatch.setattr(hub, "_newest_commit", lambda repository, settings, timeout=None: commits[-1])
    return commits


def locked() -> dict[str, str]:
    return hub.read_hub_lock(load_settings()).get("datasets", {})


def test_an_update_tells_both_commits_and_all_sources_of_the_repository(project: Project, rmw: Rmw, newest: list[str]):
    first = json.loads(rmw("sources", "update", "hh-helpful-base", "--json").out)
    assert (first["before"], first["now"]) == (None, OLD)
    newest.append(NEW)
    answer = rmw("sources", "update", "hh_helpful_base", "--json")
    assert answer.code == 0
    assert json.loads(answer.out) == {
        "source": "hh_helpful_base",
        "hub": HH,
        "before": OLD,
        "now": NEW,
        "sources": ["hh_helpful_base", "hh_helpful_online", "hh_helpful_rejection_sampled", "hh_harmless_base"],
    }
    assert locked() == {HH: NEW}


def test_an_update_is_told_to_a_person(project: Project, rmw: Rmw, newest: list[str]):
    assert "not locked yet" in rmw("sources", "update", "hh_helpful_base").out
    again = rmw("sources", "update", "hh_helpful_base")
    assert again.out.count(OLD) == 2
    assert "nothing has changed" in again.err
    newest.append(NEW)
    assert "nothing has changed" not in rmw("sources", "update", "hh_helpful_base").err


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("toy", ("source 'toy'", "rows is not on the hub", "change the files there")),
        ("sample_ratings", ("samples:ratings is not on the hub",)),
        ("hh_helpfull_base", ("did you mean 'hh_helpful_base'?",)),
    ],
)
def test_only_a_source_on_the_hub_can_be_updated(project: Project, rmw: Rmw, source: str, words: tuple[str, ...]):
    answer = rmw("sources", "update", source)
    assert answer.code == 1
    assert [part for part in words if part not in answer.error] == []
    assert locked() == {}


def test_a_source_that_the_mirror_serves_is_not_updated(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    (project.folder / "mirror" / HH).mkdir(parents=True)
    monkeypatch.setenv("RMW_HUB_MIRROR", str(project.folder / "mirror"))
    answer = rmw("sources", "update", "hh_helpful_base")
    assert answer.code == 1
    assert f"mirror folder {project.folder}/mirror/{HH}" in answer.error
    assert "unset RMW_HUB_MIRROR" in answer.error
    assert locked() == {}
