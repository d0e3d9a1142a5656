import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest

from rm_workflow import samples
from rm_workflow.samples import benchmarks, generate, plants
from rm_workflow.settings import Settings

COMMITTED = Path(__file__).parents[2] / "data" / "samples"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    samples.write(folder)
    return folder


def settings(home: Path, project: Path | None) -> Settings:
    return Settings(home=home, hub_mirror=None, catalog=None, project=project, device="auto")


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (COMMITTED / name).read_text("ascii").splitlines()]


def test_writing_again_gives_the_committed_bytes(written: Path) -> None:
    differing = [name for name in samples.FILES if (written / name).read_bytes() != (COMMITTED / name).read_bytes()]
    assert differing == [], "run python -m rm_workflow.samples and commit what it writes"


def test_no_other_file_is_written_and_all_are_small(written: Path) -> None:
    found = {str(path.relative_to(written)): path.stat().st_size for path in written.rglob("*") if path.is_file()}
    assert set(found) == set(samples.FILES)
    assert sum(found.values()) < 2_000_000


def test_the_project_folder_is_used_when_it_is_complete(tmp_path: Path) -> None:
    assert samples.folder(settings(tmp_path, COMMITTED.parents[1])) == COMMITTED
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("has_project", [False, True])
def test_a_missing_or_incomplete_folder_is_recreated_under_the_cache(tmp_path: Path, has_project: bool) -> None:
    project = tmp_path / "project"
    (project / "data" / "samples" / "dialogues").mkdir(parents=True)
    found = samples.folder(settings(tmp_path / "home", project if has_project else None))
    assert found.is_relative_to(tmp_path / "home" / "cache" / "samples")
    assert all((found / name).read_bytes() == (COMMITTED / name).read_bytes() for name in samples.FILES)


def test_a_copy_under_the_cache_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = samples.folder(settings(tmp_path, None))
    monkeypatch.setattr(generate, "write", lambda folder: pytest.fail("written again"))
    assert samples.folder(settings(tmp_path, None)) == first


def test_every_plant_stands_in_the_manifest_as_often_as_declared() -> None:
    planted = json.loads((COMMITTED / "planted.json").read_text())["planted"]
    # Plants that take several rows each.
    rows_each = Counter({"two_pairs": 2, "cap_three_pairs": 3, "cap_four_pairs": 4, "contradictory": 2})
    for (source, split), numbers in plants.NUMBERS.items():
        for plant, number in numbers.items():
            lines = planted[plant][f"{source}/{split}.jsonl"]
            assert len(lines) == number * (rows_each[plant] or 1), (source, split, plant)


def test_broken_lines_stay_under_one_percent_of_a_file() -> None:
    planted = json.loads((COMMITTED / "planted.json").read_text())["planted"]
    for name, lines in planted["broken_line"].items():
        assert 0 < len(lines) <= 0.01 * len((COMMITTED / name).read_text("ascii").splitlines())


def test_rewardbench_has_its_schema_and_all_subsets() -> None:
    found = rows("rewardbench/filtered.jsonl")
    assert len(benchmarks.REWARDBENCH_SUBSETS) == 23
    assert Counter(row["subset"] for row in found) == Counter(dict.fromkeys(benchmarks.REWARDBENCH_SUBSETS, 6))
    keys = ["prompt", "chosen", "chosen_model", "rejected", "rejected_model", "subset", "id"]
    assert {tuple(row) for row in found} == {tuple(keys)}
    assert [row["id"] for row in found] == list(range(len(found)))
    assert all(row["chosen"] != row["rejected"] for row in found)


def test_rewardbench2_has_its_schema_and_all_subsets() -> None:
    found = rows("rewardbench2/test.jsonl")
    sizes = {"Factuality": 20, "Precise IF": 20, "Math": 20, "Safety": 20, "Focus": 20, "Ties": 16}
    assert Counter(row["subset"] for row in found) == Counter(sizes)
    assert len({row["id"] for row in found}) == len(found)
    for row in found:
        assert (row["num_correct"], row["num_incorrect"]) == (len(row["chosen"]), len(row["rejected"]))
        assert row["total_completions"] == row["num_correct"] + row["num_incorrect"] == len(row["models"])
        assert len({*row["chosen"], *row["rejected"]}) == row["total_completions"]
        if row["subset"] != "Ties":
            assert (row["num_correct"], row["num_incorrect"]) == (1, 3)


def test_every_tied_item_has_its_reference_item() -> None:
    ties = {row["id"]: row for row in rows("rewardbench2/test.jsonl") if row["subset"] == "Ties"}
    assert set(ties) == {f"{kind}:{number}" for kind in ("ref", "tied") for number in range(8)}
    assert all((row["num_correct"] == 1) == item.startswith("ref:") for item, row in ties.items())
    assert all(row["num_correct"] == 3 for item, row in ties.items() if item.startswith("tied:"))


def test_a_plant_that_depends_on_what_cap_keeps_is_refused() -> None:
    sample = generate.build()
    dialogues = sample.rows["dialogues", "train"]
    capped = next(row for row in dialogues if row.plant == "cap_three_pairs")
    sample.rows["dialogues", "test"].append(dataclasses.replace(capped, plant=None, replies=("one", "two")))
    with pytest.raises(RuntimeError, match="depend on what cap keeps"):
        generate.manifest(sample)
