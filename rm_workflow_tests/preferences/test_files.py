import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.errors import UserError
from rm_workflow.preferences.files import BrokenLine, Share, read_rows
from rm_workflow_tests.preferences import sources
from rm_workflow_tests.preferences.sources import hh_row


def read(path: Path) -> list:
    return list(read_rows(path, f"folder/{path.name}"))


def test_lines_are_numbered_from_one_and_end_at_newline_only(tmp_path: Path) -> None:
    text = "one\u2028two\u0085three\x0b"
    (tmp_path / "a.jsonl").write_bytes(
        json.dumps({"text": text}, ensure_ascii=False).encode() + b'\r\n{"text": "last line without newline"}'
    )
    rows = read(tmp_path / "a.jsonl")
    assert [number for number, _ in rows] == [1, 2]
    assert rows[0][1] == {"text": text}


def test_gzip_reads_as_the_plain_file_does(tmp_path: Path) -> None:
    data = b'{"a": 1}\n{"a": 2}\n'
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    assert read(tmp_path / "a.jsonl") == read(tmp_path / "b.jsonl.gz") == [(1, {"a": 1}), (2, {"a": 2})]


def test_xz_and_the_ending_json_read_as_the_plain_file_does(tmp_path: Path) -> None:
    data = b'{"a": 1}\n{"a": 2}\n'
    (tmp_path / "a.json").write_bytes(data)
    (tmp_path / "b.jsonl.xz").write_bytes(lzma.compress(data))
    assert read(tmp_path / "a.json") == read(tmp_path / "b.jsonl.xz") == [(1, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize("kept", [0, 20, -5])
def test_an_xz_that_ends_early_is_told_with_its_name(tmp_path: Path, kept: int) -> None:
    whole = lzma.compress(b'{"a": 1}\n' * 1000)
    (tmp_path / "cut.jsonl.xz").write_bytes(whole[:kept])
    with pytest.raises(UserError, match=r"cut\.jsonl\.xz: the xz file ends early or is damaged"):
        read(tmp_path / "cut.jsonl.xz")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "empty"),
        (b"  \r", "empty"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1} {"b": 2}', "Extra data"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'["a"]', "list"),
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' stands twice in one object"),
        (b'{"a": [{"b": 1, "b": 2}]}', "the key 'b' stands twice in one object"),
        (b"null", "NoneType"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 200_000, "not JSON"),
    ],
)
def test_a_broken_line_stands_in_its_place_with_its_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    rows = read(tmp_path / "a.jsonl")
    assert [number for number, _ in rows] == [1, 2, 3]
    assert isinstance(rows[1][1], BrokenLine)
    assert reason in rows[1][1].reason
    assert rows[2][1] == {"a": 3}


def test_a_byte_order_mark_is_no_defect(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert read(tmp_path / "a.jsonl") == [(1, {"a": 1})]


@pytest.mark.parametrize("kept", [5, 60, -9, -1])
def test_a_gzip_that_ends_early_is_told_with_its_name(tmp_path: Path, kept: int) -> None:
    whole = gzip.compress(b"".join(b'{"a": %d}\n' % number for number in range(1000)))
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:kept])
    with pytest.raises(UserError, match=r"folder/cut\.jsonl\.gz: .*ends early"):
        read(tmp_path / "cut.jsonl.gz")


def test_a_damaged_gzip_is_told_with_its_name(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b"".join(b'{"a": %d}\n' % number for number in range(1000))))
    whole[len(whole) // 2] ^= 0xFF
    (tmp_path / "bad.jsonl.gz").write_bytes(whole)
    with pytest.raises(UserError, match=r"bad\.jsonl\.gz"):
        read(tmp_path / "bad.jsonl.gz")


def test_parquet_rows_are_numbered_from_zero_over_all_row_groups(tmp_path: Path) -> None:
    nested = [{"turns": [{"role": "user", "content": f"{number}"}], "score": None} for number in range(1100)]
    pq.write_table(pa.Table.from_pylist(nested), tmp_path / "a.parquet", row_group_size=300)
    assert read(tmp_path / "a.parquet") == list(enumerate(nested))


def test_a_parquet_row_that_is_not_utf8_is_broken_and_harms_no_neighbour(tmp_path: Path) -> None:
    column = pa.array([b"one", b"caf\xe9", b"three"]).view(pa.string())
    pq.write_table(pa.table({"a": column}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [(0, {"a": "one"}), (1, BrokenLine("not UTF-8", "")), (2, {"a": "three"})]


def test_a_parquet_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"folder/a\.parquet: the header has the column 'a' without a name or twice"):
        read(tmp_path / "a.parquet")


def test_a_parquet_that_ends_early_is_told_with_its_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(1000))}), tmp_path / "whole.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"folder/cut\.parquet: .*ends early"):
        read(tmp_path / "cut.parquet")


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xls").write_text("chosen,rejected\n")
    with pytest.raises(UserError, match=r"folder/a\.xls: unknown kind of file; use one of \.jsonl"):
        read(tmp_path / "a.xls")


def test_cells_of_csv_are_text_and_a_row_has_the_line_at_which_it_begins(tmp_path: Path) -> None:
    text = '\ufeffprompt,reply\r\n"two\nlines, and a "" quote",007\r\nnull,\r\n"a\rb",\u2028\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert read(tmp_path / "a.csv") == [
        (2, {"prompt": 'two\nlines, and a " quote', "reply": "007"}),
        (4, {"prompt": "null", "reply": ""}),
        (5, {"prompt": "a\rb", "reply": "\u2028"}),
    ]


@pytest.mark.parametrize(("name", "pack"), [("a.csv.gz", gzip.compress), ("a.csv.xz", lzma.compress)])
def test_a_packed_csv_reads_as_the_plain_one_and_tells_where_it_ends_early(tmp_path: Path, name, pack) -> None:
    data = b"a,b\n" + b"1,2\n" * 3000
    (tmp_path / name).write_bytes(pack(data))
    assert read(tmp_path / name) == [(line, {"a": "1", "b": "2"}) for line in range(2, 3002)]
    (tmp_path / name).write_bytes(pack(data)[:-9])
    with pytest.raises(UserError, match=r"folder/a\.csv\..z: the .* file ends early or is damaged"):
        read(tmp_path / name)


def test_tabs_part_the_cells_of_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\n1,5\t2\n")
    assert read(tmp_path / "a.tsv") == [(2, {"a": "1,5", "b": "2"})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1", "1 cells under 2 columns"),
        (b"1,2,3", "3 cells under 2 columns"),
        (b"", "the line is empty"),
        (b"\xff,2", "not UTF-8"),
        (b'"1"x,2', "not CSV"),
        (b"1\r2,2", "not CSV"),
    ],
)
def test_a_broken_csv_line_stands_in_its_place_and_harms_no_neighbour(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\nx,y\n" + line + b"\nv,w\n")
    first, (number, broken), last = read(tmp_path / "a.csv")
    assert (first, last) == ((2, {"a": "x", "b": "y"}), (4, {"a": "v", "b": "w"}))
    assert number == 3
    assert isinstance(broken, BrokenLine)
    assert reason in broken.reason


@pytest.mark.parametrize(
    ("lines", "broken"),
    [('1,2\n"3,4\n5,6\n7,8\n', [3, 4, 5]), ('"3,4\n5,6\n7,"8"\n1,2\n', [2, 3, 4])],
    ids=["never closed", "closed by the quote of a later row"],
)
def test_each_line_that_a_quote_takes_in_is_a_broken_line(tmp_path: Path, lines: str, broken: list[int]) -> None:
    (tmp_path / "a.csv").write_text(f"a,b\n{lines}")
    rows = read(tmp_path / "a.csv")
    assert [number for number, _ in rows] == [2, 3, 4, 5]
    assert [number for number, row in rows if isinstance(row, BrokenLine)] == broken
    assert {"a": "1", "b": "2"} in [row for _, row in rows]


def test_a_cell_of_many_characters_and_nul_are_read_verbatim(tmp_path: Path) -> None:
    long = "\0" + "x" * 200_000
    (tmp_path / "a.csv").write_text(f"a,b\n{long},2\n")
    assert read(tmp_path / "a.csv") == [(2, {"a": long, "b": "2"})]


@pytest.mark.parametrize(("header", "column"), [("a,a", "a"), ("a,", ""), ("a, ", " ")])
def test_a_csv_header_without_clear_names_is_refused(tmp_path: Path, header: str, column: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n1,2\n")
    with pytest.raises(
        UserError, match=rf"folder/a\.csv: the header has the column '{column}' without a name or twice"
    ):
        read(tmp_path / "a.csv")


def test_a_csv_header_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("a,b\n1,2\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"folder/a\.csv: the header is not UTF-8; convert the file"):
        read(tmp_path / "a.csv")


def test_a_csv_of_nothing_has_no_rows(tmp_path: Path) -> None:
    for text in ("", "a,b\n"):
        (tmp_path / "a.csv").write_text(text)
        assert read(tmp_path / "a.csv") == []


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet", "rows.csv"])
def test_each_row_stands_in_one_share_of_a_file_under_its_own_number(tmp_path: Path, file: str) -> None:
    sources.write_rows(tmp_path / file, [hh_row(f"Question {number}?", "Yes.", "No.") for number in range(1500)])
    whole = list(read_rows(tmp_path / file, file))
    shares = [list(read_rows(tmp_path / file, file, Share(index, 3))) for index in range(3)]
    assert all(shares)
    assert sorted((pair for share in shares for pair in share), key=lambda pair: pair[0]) == whole
