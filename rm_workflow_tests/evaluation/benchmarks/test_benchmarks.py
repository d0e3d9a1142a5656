import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Benchmark
from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks
from rm_workflow.evaluation.benchmarks import build_benchmark, rule, rule_with_data
from rm_workflow.hub import SourceFile, resolve_files
from rm_workflow.keys import content_id, file_sha256
from rm_workflow.settings import Settings

SHARED_ROWS = Path(os.environ.get("RMW_SHARED_ROWS", "../shared"))
PROJECT = Path(__file__).parents[3]
PAIR = {"prompt": "Is 9 prime?", "chosen": "No.", "rejected": "Yes.", "subset": "math-prm", "id": 0}


def benchmark(scoring: str) -> Benchmark:
    return Benchmark(path="somewhere", files={"filtered": ["filtered.jsonl"]}, scoring=scoring, licence="CC0")


def written(folder: Path, lines: list[str]) -> list[SourceFile]:
    path = folder / "filtered.jsonl"
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return [SourceFile("filtered", path.name, path, f"org/bench/{path.name}", file_sha256(path))]


def build(tmp_path: Path, rows: list[dict], scoring: str = "rewardbench", out: str = "out"):
    folder = tmp_path / out
    folder.mkdir()
    files = written(tmp_path, [json.dumps(row) for row in rows])
    return build_benchmark("bench", benchmark(scoring), files, folder), folder


def test_every_rule_file_is_a_rule():
    assert {"pairs", "rewardbench", "rewardbench2"} <= set(benchmarks.names())
    for name in benchmarks.names():
        assert callable(rule(name).aggregate)
        assert callable(rule(name).headline)


def test_the_documents_name_each_rule_and_hub_id_in_its_table(tmp_path: Path):
    page = (PROJECT / "docs/how-to/benchmarks.md").read_text("utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    settings = Settings(home=tmp_path, hub_mirror=None, catalog=None, project=None, device="cpu")

    assert [name for name in benchmarks.names() if not any(f"`{name}`" in line for line in lines)] == []
    for name, entry in load_catalog(settings).benchmarks.items():
        if entry.hub:
            (line,) = [line for line in lines if f"`{name}`" in line]
            assert entry.hub in line
            assert entry.licence in line


def test_an_unknown_rule_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'rewardbench2'"):
        rule("reward_bench2")


def test_a_rule_without_rows_of_its_own_builds_no_benchmark():
    with pytest.raises(UserError, match="'pairs' has no rows of its own"):
        rule_with_data("pairs")


def test_an_item_refers_to_texts_that_are_stored_once(tmp_path: Path):
    rows = [PAIR, PAIR | {"id": 1, "rejected": "It is."}]

    built, folder = build(tmp_path, rows)

    assert built.facts == {"items": 2, "passed_over": 0, "subsets": {"math-prm": 2}}
    assert [check.passed for check in built.checks] == [True]
    prompts, responses, items = (
        pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("prompts", "responses", "items")
    )
    prompt_id = content_id([{"role": "user", "content": "Is 9 prime?"}])
    assert prompts == [
        {
            "prompt_id": prompt_id,
            "group_id": content_id(["group", "is 9 prime?"]),
            "messages": [{"role": "user", "content": "Is 9 prime?"}],
        }
    ]
    assert {row["text"]: row["response_id"] for row in responses} == {
        text: content_id([prompt_id, text]) for text in ("No.", "Yes.", "It is.")
    }
    by_id = {json.loads(item["meta"])["id"]: item for item in items}
    assert by_id[0]["response_ids"] == [content_id([prompt_id, text]) for text in ("No.", "Yes.")]
    assert by_id[0]["num_correct"] == 1
    assert by_id[0]["benchmark"] == "bench"


def test_rows_with_one_id_stay_two_items(tmp_path: Path):
    built, folder = build(tmp_path, [PAIR, PAIR | {"chosen": "It is not."}])

    assert built.facts["items"] == 2
    assert len(set(pq.read_table(folder / "items.parquet")["item_id"].to_pylist())) == 2


def test_building_again_gives_identical_bytes(tmp_path: Path):
    rows = [PAIR | {"id": i, "prompt": f"Is {i} prime?"} for i in range(20)]

    folders = [build(tmp_path, rows, out=out)[1] for out in ("first", "second")]

    for name in ("prompts.parquet", "responses.parquet", "items.parquet", "benchmark.json"):
        assert file_sha256(folders[0] / name) == file_sha256(folders[1] / name)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (json.dumps(PAIR | {"subset": "maths"}), "org/bench/filtered.jsonl: row 2: field subset is 'maths'"),
        (json.dumps(PAIR | {"chosen": None}), "row 2: field chosen is None; it must be text"),
        (json.dumps(PAIR | {"chosen": "\ud800"}), "row 2: field chosen holds half of a surrogate pair"),
        ("{", "line 2: not JSON"),
    ],
)
def test_a_bad_row_stops_the_build_with_file_and_row(tmp_path: Path, bad: str, said: str):
    files = written(tmp_path, [json.dumps(PAIR), bad])

    with pytest.raises(UserError, match=said):
        build_benchmark("bench", benchmark("rewardbench"), files, tmp_path)


def test_a_file_without_rows_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="it has no row"):
        build_benchmark("bench", benchmark("rewardbench"), written(tmp_path, []), tmp_path)


@pytest.mark.shared_rows
@pytest.mark.parametrize(("scoring", "file", "items"), [("rewardbench", "v1", 1), ("rewardbench2", "v2", 3)])
def test_rows_in_the_native_schema_are_read(tmp_path: Path, scoring: str, file: str, items: int):
    path = SHARED_ROWS / "data" / "native_samples" / f"rewardbench_{file}.handmade.jsonl"
    if not path.is_file():
        pytest.skip(f"RMW_SHARED_ROWS: {path} is not there")
    files = [SourceFile("test", path.name, path, path.name, file_sha256(path))]

    assert build_benchmark("bench", benchmark(scoring), files, tmp_path).facts["items"] == items


@pytest.mark.shared_rows
@pytest.mark.parametrize(
    ("name", "file", "metadata"),
    [
        ("rewardbench", "v1", {}),
        ("rewardbench2", "v2", {"additional_metadata": {"method": None, "rejected_models": ["m-b"]}}),
    ],
)
def test_a_benchmark_of_the_catalogue_is_read_from_parquet_in_a_mirror_of_the_hub(
    tmp_path: Path, name: str, file: str, metadata: dict
):
    native = SHARED_ROWS / "data" / "native_samples" / f"rewardbench_{file}.handmade.jsonl"
    if not native.is_file():
        pytest.skip(f"RMW_SHARED_ROWS: {native} is not there")
    rows = [json.loads(line) for line in native.read_text("utf-8").splitlines()]
    settings = Settings(home=tmp_path / "home", hub_mirror=tmp_path / "hub", catalog=None, project=None, device="cpu")
    entry = load_catalog(settings).benchmarks[name]
    (path,) = (settings.hub_mirror / entry.hub / file for files in entry.files.values() for file in files)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row | metadata for row in rows]), path)
    out = tmp_path / "out"
    out.mkdir()

    built = build_benchmark(name, entry, resolve_files(entry, settings), out)

    assert built.facts["items"] == len(rows)
    texts = {row["response_id"]: row["text"] for row in pq.read_table(out / "responses.parquet").to_pylist()}
    items = {json.loads(item["meta"])["id"]: item for item in pq.read_table(out / "items.parquet").to_pylist()}
    for row in rows:
        chosen, rejected = (side if isinstance(side, list) else [side] for side in (row["chosen"], row["rejected"]))
        item = items[row["id"]]
        assert [texts[response] for response in item["response_ids"]] == [*chosen, *rejected]
        assert (item["num_correct"], item["subset"]) == (len(chosen), row["subset"])


@pytest.mark.parametrize("written_as", ["lines", "array"])
def test_rows_may_stand_in_lines_or_in_one_array(tmp_path: Path, written_as: str):
    rows = [PAIR, PAIR | {"id": 1}]
    path = tmp_path / "filtered.json"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines if written_as == "lines" else "\n " + json.dumps(rows, indent=1), "utf-8")
    files = [SourceFile("filtered", path.name, path, path.name, file_sha256(path))]

    built = build_benchmark("bench", benchmark("rewardbench"), files, tmp_path)

    assert built.facts["items"] == 2
    assert built.checks[0].metadata == {"rows": 2, "items": 2, "passed_over": 0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"prompt": ', "filtered.json: not JSON"),
        ("[3]", "filtered.json: entry 1 is no JSON object"),
        (json.dumps([PAIR, PAIR | {"chosen": 3}]), "filtered.json: entry 2: field chosen is 3"),
        ("[]", "it has no row"),
    ],
)
def test_a_bad_array_stops_the_build_with_file_and_entry(tmp_path: Path, text: str, said: str):
    path = tmp_path / "filtered.json"
    path.write_text(text, "utf-8")
    files = [SourceFile("filtered", path.name, path, path.name, file_sha256(path))]

    with pytest.raises(UserError, match=said):
        build_benchmark("bench", benchmark("rewardbench"), files, tmp_path)


def test_loading_the_rules_imports_nothing_heavy():
    code = (
        "import sys; from rm_workflow.evaluation import benchmarks; [benchmarks.rule(n) for n in benchmarks.names()]; "
        "sys.exit(bool({'torch', 'scipy', 'transformers'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
