from pathlib import Path

import pytest

from rm_workflow.catalog.loading import BUILT_IN
from rm_workflow.catalog.yaml_file import Document, Origin, dump_value, merge, parse_value, read_yaml
from rm_workflow.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E3", 1000.0),
        ("5.", 5.0),
        (".5", 0.5),
        ("-3", -3),
        ("017", 17),
        ("0x1F", 31),
        ("0o17", 15),
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("off", "off"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("=", "="),
        ("0.1.2", "0.1.2"),
        ("'16'", "16"),
        ("[test, 2]", ["test", 2]),
        ("{r: 8}", {"r": 8}),
    ],
)
def test_scalars_are_read_by_the_rules_of_yaml_1_2(text, value):
    read = parse_value(text, "--set x")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("value", [1e-5, 1.0, "1e-5", "yes", "null", "", "a: b", "# no", "two\nlines", ["a", 1], None])
def test_written_values_are_read_back_unchanged(value):
    text = dump_value(value)
    assert "\n" not in text
    assert parse_value(text, "x") == value


def test_every_key_and_list_item_has_its_line(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text("# comment\nouter:\n  inner: 1\n  items:\n    - x\n    - y\n")
    document = read_yaml(path)
    lines = {key: origin.line for key, origin in document.origins.items()}
    assert lines[("outer",)] == 2
    assert lines[("outer", "inner")] == 3
    assert lines[("outer", "items", 1)] == 6
    assert document.origin(("outer", "absent", "deeper")).line == 2


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "is empty"),
        ("# only a comment\n", None, "is empty"),
        ("- a\n- b\n", 1, "must be a mapping"),
        ("just text\n", 1, "must be a mapping"),
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' is written twice (first in line 1)"),
        ("x:\n  a: 1\n  a: 2\n", 3, "key 'x.a' is written twice (first in line 2)"),
        ("a: 1\nb: [1, 2\n", 3, "not valid YAML"),
        ("a:\n\tb: 1\n", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML"),
        ("a: b: c\n", 1, "not valid YAML"),
        ("a: &x 1\nb: *x\n", 1, "anchors and aliases"),
        ("a: 1\nb: !!python/object/apply:os.system ['true']\n", 2, "tag tag:yaml.org,2002:python/object"),
        ("a: !mine 3\n", 1, "tag !mine"),
        ("? [a, b]\n: 1\n", 1, "a key must be plain text, not a list"),
        ("a: \x07\n", None, "not allowed"),
        ("[" * 500 + "]" * 500, None, "nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence_with_its_line(tmp_path: Path, monkeypatch, text, line, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml(Path("bad.yaml"))
    message = str(caught.value)
    assert message.startswith(f"bad.yaml:{line}: " if line else "bad.yaml")
    assert words in message
    assert "\n" not in message


def test_a_file_that_is_not_utf8_or_not_there_is_named(tmp_path: Path):
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9\n")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_yaml(tmp_path / "latin.yaml")
    with pytest.raises(UserError, match="does not exist"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path)


def _document(text: str, path: Path) -> Document:
    path.write_text(text)
    return read_yaml(path)


def test_merging_joins_mappings_replaces_lists_and_removes_with_null(tmp_path: Path):
    parent = _document("a: {x: 1, y: 2}\nb: [1, 2]\nc: {z: 1}\nd: {w: 1}\n", tmp_path / "parent.yaml")
    child = _document("a: {y: 3, n: 4}\nb: [9]\nc: null\nd: 5\ne: null\n", tmp_path / "child.yaml")
    merged = merge(parent, child)
    assert merged.data == {"a": {"x": 1, "y": 3, "n": 4}, "b": [9], "d": 5, "e": None}
    assert parent.data["a"] == {"x": 1, "y": 2}


def test_merging_keeps_where_each_value_came_from(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parent = _document("a: {x: 1, y: 2}\nb: [1, 2]\nd: {w: 1}\n", tmp_path / "parent.yaml")
    child = _document("a:\n  y: 3\nb: [9]\nd: 5\n", tmp_path / "child.yaml")
    origins = merge(parent, child).origins
    assert origins["a", "x"] == Origin("parent.yaml", 1)
    assert origins["a", "y"] == Origin("child.yaml", 2)
    assert origins["b", 0] == Origin("child.yaml", 3)
    assert ("b", 1) not in origins
    assert ("d", "w") not in origins


@pytest.mark.parametrize("path", sorted(BUILT_IN.rglob("*.yaml")), ids=lambda path: str(path.relative_to(BUILT_IN)))
def test_a_file_of_the_package_is_read_as_a_copy_in_a_folder_of_ones_own(path: Path, tmp_path: Path):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())

    packaged, own = read_yaml(path), read_yaml(copy)

    assert packaged.data == own.data
    assert {key: origin.line for key, origin in packaged.origins.items()} == {
        key: origin.line for key, origin in own.origins.items()
    }
