import json
from collections.abc import Callable

import dagster as dg
import pytest

from rm_workflow.assets.instance import open_instance
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import Answer, Project, lines

Rmw = Callable[..., Answer]


def versions(project: Project) -> list[str]:
    return sorted(folder.name for folder in (project.home / "artifacts/toy_audit").iterdir())


def metadata(asset: str) -> dict[str, object]:
    """Return what the web UI shows of an asset's latest materialization, in its order."""
    with open_instance(load_settings()) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_an_audit_makes_the_data_where_it_is_missing_and_says_what_it_measured(project: Project, rmw: Rmw):
    answer = rmw("audit", "toy", "--json")
    assert answer.code == 0, answer.err
    facts = json.loads(answer.out)
    assert facts["mixture"].startswith("toy_mixture@")
    toy = facts["sources"]["toy"]
    assert (toy["pairs"], toy["train"], toy["test"]) == (110, 100, 10)
    assert toy["length"]["chosen_longer"]["share"] == 0
    assert facts["licences"]["commercial_use"] == "yes"
    assert facts["token_lengths"] is None
    assert project.published() == ["pairs_toy", "raw_toy", "toy_audit", "toy_mixture"]
    shown = metadata("toy_audit")
    assert list(shown)[:3] == ["findings", "commercial_use", "pairs"]
    assert "a model that picks the shorter reply" in str(shown["findings"])
    plots = [name for name, value in shown.items() if "data:image/png;base64" in str(value)]
    assert plots == ["plot_chosen_is_longer", "plot_lengths", "plot_shared_first_turns", "plot_shared_responses"]
    assert metadata("toy_mixture")["commercial_use"] == "yes"
    for named in ("toy_mixture", "toy-mixture"):
        assert json.loads(rmw("audit", named, "--no-run", "--json").out) == facts
    told = rmw("audit", "toy", "--no-run").out
    assert "sources: length of replies" in told
    assert "0.000 (0.000 to 0.0" in told
    assert "a model that picks the shorter reply gets 100 % of them right" in told
    assert "- who wrote the responses of toy is not stated" in told
    assert "licences: commercial use is allowed" in told


def test_it_is_reused_until_rows_or_licences_change(project: Project, rmw: Rmw):
    first = json.loads(rmw("audit", "toy", "--json").out)
    assert json.loads(rmw("audit", "toy", "--json").out) == first
    assert len(versions(project)) == 1
    sources = project.folder / "catalog/sources.yaml"
    sources.write_text(sources.read_text().replace("CC0-1.0", "CC-BY-NC-4.0"))
    second = json.loads(rmw("audit", "toy", "--json").out)
    assert second["mixture"] == first["mixture"]
    assert (first["licences"]["commercial_use"], second["licences"]["commercial_use"]) == ("yes", "no")
    assert second["findings"][0]["sentence"].startswith("commercial use is not allowed because of source toy")
    project.write_rows(lines(range(50)))
    assert json.loads(rmw("audit", "toy", "--json").out)["pairs"] == 60
    assert len(versions(project)) == 3


def test_without_running_a_missing_audit_is_refused(project: Project, rmw: Rmw):
    answer = rmw("audit", "toy", "--no-run")
    assert answer.code == 1
    assert "asset toy_audit was never made; make it first: rmw audit toy" in answer.error
    assert project.published() == []


@pytest.mark.parametrize("arguments", [("run", "toy", "--until", "audit"), ("audit",)])
def test_wrong_usage_ends_with_2(project: Project, rmw: Rmw, arguments: tuple[str, ...]):
    assert rmw(*arguments).code == 2


def test_an_unknown_mixture_is_one_sentence(project: Project, rmw: Rmw):
    assert "recipe 'toi' is not in the catalogue" in rmw("audit", "toi_mixture").error
