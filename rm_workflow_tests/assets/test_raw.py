"""What the page of a raw data set shows."""

import json
from pathlib import Path

import dagster as dg
import pytest

from rm_workflow.assets.publishing import RecipeSettings
from rm_workflow.assets.raw import raw_asset
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.settings import load_settings

STEPS = [
    {"conversations": [{"role": "user", "content": "2 + 3? Step 1: 5."}, {"role": "assistant", "content": sign}]}
    for sign in "++-"
]
PAIRS = [{"chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Hi?\n\nAssistant: No."}]
SOURCES = """
solutions:
  {path: rows, files: {train: [steps.jsonl]}, adapter: step_turns, solution_starts: "Step 1:", licence: CC0}
pairs:
  {path: rows, files: {train: [pairs.jsonl]}, adapter: hh_transcript, licence: CC0}
"""


@pytest.fixture
def metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "rows").mkdir()
    for name, rows in (("steps", STEPS), ("pairs", PAIRS)):
        (tmp_path / f"rows/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sources.yaml").write_text(SOURCES)
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RMW_CATALOG", str(tmp_path))

    def materialized(source: str) -> dict:
        asset = raw_asset(load_catalog(load_settings()), source)
        ran = dg.materialize([asset], resources={"recipe_settings": RecipeSettings()})
        (event,) = ran.get_asset_materialization_events()
        return dict(event.materialization.metadata)

    return materialized


def test_the_numbers_of_labels_stand_by_kind_and_value(metadata):
    assert [record.data for record in metadata("solutions")["labels"].records] == [
        {"kind": "hard", "value": "0", "labels": 1},
        {"kind": "hard", "value": "1", "labels": 2},
    ]


def test_a_source_of_pairs_says_nothing_of_labels(metadata):
    assert "labels" not in metadata("pairs")
