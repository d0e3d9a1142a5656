"""The catalogue's own sources and pair sets on rows in their native schemas."""

from pathlib import Path

import pytest

from rm_workflow.catalog.loading import load_catalog
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow.preferences.raw import build_raw
from rm_workflow_tests.preferences.sources import settings

# source -> file of rows in its schema, rows used, pair sets with the pairs that they keep
NATIVE = {
    "shp": ("shp.handmade", 2, {"shp_gt2_cap5": 2}),
    "ultrafeedback": ("ultrafeedback.handmade", 1, {"ultrafeedback_fine_grained": None}),
    "helpsteer": ("helpsteer.handmade", 2, {"helpsteer_helpfulness_correctness": 1}),
    "helpsteer2": ("helpsteer2.handmade", 4, {}),
    "helpsteer2_preference": ("helpsteer2_preference.handmade", 1, {}),
    "capybara": ("capybara_dpo.handmade", 1, {"capybara": 1}),
    "orca": ("orca_dpo_argilla.handmade", 2, {"orca": None}),
    "pku_safe_rlhf_30k_better": ("pku_safe_rlhf.real", 2, {"pku_safe_rlhf_30k_better": 2}),
    "pku_safe_rlhf_30k_safer": ("pku_safe_rlhf.real", 2, {"pku_safe_rlhf_30k_safer": 2}),
    "ultrainteract": ("ultrainteract_pair.real", 1, {}),
    "tulu3_8b_mixture": ("tulu3_preference.handmade", 1, {}),
    "skywork_80k_v02": ("skywork_80k_v02.handmade", 1, {}),
}


@pytest.mark.shared_rows
@pytest.mark.parametrize("name", NATIVE)
def test_native_rows_become_pairs(name: str, shared_rows: Path, tmp_path: Path):
    file, used, pair_sets = NATIVE[name]
    catalog = load_catalog(settings(tmp_path))
    path = shared_rows / "data" / "native_samples" / f"{file}.jsonl"
    files = [SourceFile("train", path.name, path, f"native/{path.name}", file_sha256(path))]
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    built = build_raw(name, catalog.sources[name], files, raw)
    assert (built.facts["rows"], built.facts["used"]) == (used, used)
    for pair_set, kept in pair_sets.items():
        out.mkdir(exist_ok=True)
        made = build_pair_set(pair_set, catalog.pair_sets[pair_set], raw, out)
        assert all(check.passed for check in made.checks)
        assert kept is None or made.facts["kept"] == kept, made.facts
