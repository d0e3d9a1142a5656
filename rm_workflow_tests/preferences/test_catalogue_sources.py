"""The catalogue's own sources and pair sets on rows in their native schemas."""

import json
from pathlib import Path

import pytest

from rm_workflow.catalog.loading import load_catalog
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow.preferences.raw import build_raw
from rm_workflow_tests.preferences.raw_tables import read
from rm_workflow_tests.preferences.sources import settings

# source -> file of rows in its schema, rows used, pair sets with the pairs that they keep
NATIVE = {
    "shp": ("shp.handmade", 2, {"shp_gt2_cap5": 2}),
    "ultrafeedback": ("ultrafeedback.handmade", 1, {"ultrafeedback_fine_grained": None}),
    "helpsteer": ("helpsteer.handmade", 2, {"helpsteer_helpfulness_correctness": 1}),
    "helpsteer2": ("helpsteer2.handmade", 4, {}),
    "helpsteer2_preference": ("helpsteer2_preference.handmade", 1, {}),
    "capybara": ("capybara_dpo.handmade", 1, {"capybara": 1}),
    "orca": ("orca_dpo_argilla.handmade", 2, {"orca": None, "orca_card_filter": 1}),
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


def test_the_filter_of_orcas_card_keeps_good_untied_pairs_that_gsm8k_does_not_hold(tmp_path: Path):
    def row(number: int, score: float | None, status: str = "unchanged", in_gsm8k: bool = False) -> dict:
        sides = {"system": "", "input": f"Question {number}", "chosen": "Yes.", "rejected": "No."}
        return {**sides, "chosen_score": score, "status": status, "in_gsm8k_train": in_gsm8k}

    rows = [row(1, 8), row(2, 7.5), row(3, 9, "tie"), row(4, 9, in_gsm8k=True), row(5, None), row(6, 10, "swapped")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    catalog = load_catalog(settings(tmp_path))
    raw, out = tmp_path / "raw", tmp_path / "out"
    for folder in (raw, out):
        folder.mkdir()
    build_raw("orca", catalog.sources["orca"], [SourceFile("train", path.name, path, "x/rows.jsonl", "0")], raw)
    made = build_pair_set("orca_card_filter", catalog.pair_sets["orca_card_filter"], raw, out)
    dropped = {"rating": 2, "status": 1, "in_gsm8k_train": 1, "identical_responses": 0, "exact_duplicate": 0}
    assert made.facts["dropped"] == dropped
    assert [pair["row"] for pair in sorted(read(out / "pairs.parquet"), key=lambda pair: pair["row"])] == [1, 6]
