"""Generated rows in native schemas: the pipeline counts what was planted, in the published file forms too."""

import gzip
import json
import lzma
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Catalog, Source
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow.preferences.raw import build_raw
from rm_workflow.samples import generate, native_accounting, native_sources
from rm_workflow.samples.native_rows import Dropped, Given, NativeRow
from rm_workflow_tests.preferences.sources import settings

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
PLANTED = json.loads((SAMPLES / "planted.json").read_text("utf-8"))["six_sources"]
READINGS = sorted(native_accounting.PAIR_SETS)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return load_catalog(settings(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def rows() -> dict[str, list[NativeRow]]:
    return generate.build().native


def published_file(full: Source, sample: Source, file: str) -> str:
    """Return what the published set calls a file of the sample."""
    split = next(split for split, files in sample.files.items() if file in files)
    return file if file in full.files[split] else full.files[split][sample.files[split].index(file)]


def write_native(rows: Path, path: Path) -> None:
    """Write a sample file in the form that its published name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = rows.read_bytes()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([json.loads(line) for line in content.splitlines()]), path)
    else:
        packed = {".gz": gzip.compress, ".xz": lzma.compress}
        path.write_bytes(packed.get(path.suffix, bytes)(content))


def native_files(full: Source, sample: Source, folder: Path) -> Iterator[SourceFile]:
    for split, files in sample.files.items():
        for file in files:
            native = published_file(full, sample, file)
            write_native(SAMPLES / sample.path.removeprefix("samples:") / file, folder / native)
            yield SourceFile(split, native, folder / native, native, file_sha256(folder / native))


@pytest.mark.parametrize("reading", READINGS)
def test_the_full_entries_count_what_is_planted_in_the_published_file_forms(
    reading: str, catalog: Catalog, tmp_path: Path
):
    full, sample = catalog.sources[reading], catalog.sources[f"sample_{reading}"]
    pair_set = native_accounting.PAIR_SETS[reading]
    raw, out = tmp_path / "raw", tmp_path / "pairs"
    raw.mkdir()
    out.mkdir()
    built = build_raw(reading, full, list(native_files(full, sample, tmp_path / "files")), raw)
    planted = PLANTED["counts"]["sources"][f"sample_{reading}"]
    assert {key: built.facts[key] for key in planted} == planted
    made = build_pair_set(pair_set, catalog.pair_sets[pair_set], raw, out)
    planted = {
        **PLANTED["counts"]["pair_sets"][f"sample_{pair_set}"],
        "published": made.facts["published"],
        "marked": {},
    }
    assert made.facts == planted
    assert all(check.passed for check in (*built.checks, *made.checks))


@pytest.mark.parametrize("reading", READINGS)
def test_a_sample_source_is_read_and_filtered_as_the_full_one(reading: str, catalog: Catalog):
    own = {"hub", "path", "files", "licence", "attribution", "generators", "description"}
    own |= {"published_rows", "proven_on_real_rows", "languages"}
    full, sample = (catalog.sources[name].model_dump(exclude=own) for name in (reading, f"sample_{reading}"))
    assert sample == full
    name = native_accounting.PAIR_SETS[reading]
    own = {"source", "description", "published", "published_note"}
    full, sample = (catalog.pair_sets[each].model_dump(exclude=own) for each in (name, f"sample_{name}"))
    assert sample == full


def test_the_mini_recipe_mixes_what_the_full_one_mixes_in_its_order(catalog: Catalog):
    full, mini = (catalog.recipes[name].mixture for name in ("rm_mistral_7b", "rm_mistral_7b_mini"))
    assert [name.removeprefix("sample_") for name in mini.pair_set_names] == full.pair_set_names
    assert mini.split == full.split
    generated = [name for name in mini.pair_set_names if name.startswith("sample_")]
    assert generated == PLANTED["recipe"]["mixture"]["pair_sets"]


# source -> fixture of its published schema; of PKU-SafeRLHF the 30K release has these columns only
SCHEMAS = {
    "shp": ("shp.handmade", None),
    "ultrafeedback": ("ultrafeedback.handmade", None),
    "helpsteer": ("helpsteer.handmade", None),
    "capybara": ("capybara_dpo.handmade", None),
    "orca": ("orca_dpo_argilla.handmade", None),
    "pku_safe_rlhf_30k": (
        "pku_safe_rlhf.real",
        {"prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe"}
        | {"better_response_id", "safer_response_id"},
    ),
}


def shape(value: Any) -> Any:
    """Return names and types; a list is told by its first entry, null and an empty list by None."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else None
    return None if value is None else type(value).__name__


def fits(found: Any, wanted: Any) -> bool:
    if found is None or wanted is None:
        return True
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(fits(found[key], wanted[key]) for key in found)
    if isinstance(found, list) and isinstance(wanted, list):
        return fits(found[0], wanted[0])
    return bool(found == wanted)


@pytest.mark.shared_rows
@pytest.mark.parametrize("name", SCHEMAS)
def test_whole_rows_have_the_names_and_types_of_the_published_ones(
    name: str, rows: dict[str, list[NativeRow]], shared_rows: Path
):
    fixture, columns = SCHEMAS[name]
    first = (shared_rows / "data/native_samples" / f"{fixture}.jsonl").read_text("utf-8").split("\n")[0]
    wanted = {key: one for key, one in shape(json.loads(first)).items() if columns is None or key in columns}
    for file, of_file in rows.items():
        whole = [row for row in of_file if not any(isinstance(one, Dropped) for one in row.means.values())]
        if file.startswith(f"{name}/"):
            assert [row.line for row in whole if not fits(shape(json.loads(row.line)), wanted)] == []


def test_every_plant_stands_where_it_is_declared():
    for source in native_sources.SOURCES:
        for file, plan in source.files.items():
            lines = {plant: files.get(f"{source.name}/{file}", []) for plant, files in PLANTED["planted"].items()}
            assert all(len(lines[plant]) >= count for plant, count in plan.plants.items()), file
            assert len(lines.get("exact_duplicate", [])) == plan.repeats, file


def test_every_pair_rule_drops_something_in_train():
    for name, counted in PLANTED["counts"]["pair_sets"].items():
        assert min(counted["dropped"].values()) > 0, name
    assert min(PLANTED["counts"]["mixture"]["dropped"].values()) > 0


def test_broken_lines_stay_under_one_percent_of_a_file():
    for name, lines in PLANTED["planted"]["broken_line"].items():
        assert 0 < len(lines) <= 0.01 * len((SAMPLES / name).read_text("ascii").splitlines())


def test_each_post_has_an_id_of_its_own(rows: dict[str, list[NativeRow]]):
    histories: dict[str | None, set[str]] = {}
    for meaning in (row.means["shp"] for file, of_file in rows.items() if file.startswith("shp/") for row in of_file):
        if isinstance(meaning, Given):
            histories.setdefault(meaning.group, set()).add(meaning.prompt[0][1])
    # the one post that was edited on purpose
    assert [len(texts) for texts in histories.values() if len(texts) > 1] == [2]


def test_better_and_safer_disagree_where_that_is_planted_and_nowhere_else(rows: dict[str, list[NativeRow]]):
    differing: Counter[str | None] = Counter()
    for file, of_file in rows.items():
        for row in of_file if file.startswith("pku") else []:
            better, safer = (row.means[f"pku_safe_rlhf_30k_{axis}"] for axis in ("better", "safer"))
            if isinstance(better, Given) and isinstance(safer, Given):
                differing[row.plant] += better.chosen != safer.chosen
    assert {plant for plant, number in differing.items() if number} == {"better_and_safer_disagree"}


@pytest.mark.parametrize("reading", READINGS)
def test_length_does_not_tell_the_chosen_reply(reading: str, rows: dict[str, list[NativeRow]]):
    source = next(source for source in native_sources.SOURCES if reading in source.readings)
    of_source = {file: rows[f"{source.name}/{file}"] for file in source.files}
    kept = native_accounting.of_reading(source, of_source, reading).pair_set.kept
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in kept)
    assert 0.4 <= longer / len(kept) <= 0.6
