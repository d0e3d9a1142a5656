"""YAML files with the line of every value, so that a message can say where to look.

Read by the rules of YAML 1.2, where ``1e-5`` is a number and ``yes`` is text; PyYAML by itself reads YAML 1.1, where
``learning_rate: 1e-5`` is text. Anchors, aliases and tags are refused: no value is hidden, repeated or executed.
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rm_workflow.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGE_PARENT = PACKAGE.parent

KeyPath = tuple[str | int, ...]

# YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#1032-tag-resolution): pattern, and the characters it starts with.
RESOLVERS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
TAG = "tag:yaml.org,2002:"
# What fits into 64 bits, as DuckDB, Parquet and torch have it; Python itself refuses to read 4,301 digits.
MOST_DIGITS = 18


class Loader(yaml.SafeLoader):
    """Composes nodes under the YAML 1.2 rules; its constructors are never called."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own class attribute, replaced on purpose)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose the next node, unless it is repeated from elsewhere in the file."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.NodeEvent) and event.anchor:
            problem = "anchors and aliases are not read here, write the value out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]
        return super().compose_node(parent, index)


class PackagedLoader(getattr(yaml, "CSafeLoader", Loader)):  # type: ignore[misc]
    """Composes the package's own files by libyaml where it is there, in a twentieth of the time.

    Files of a person are read by ``Loader``: libyaml takes aliases, and nesting that is too deep ends the process.
    """

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012


class Dumper(yaml.SafeDumper):
    """Writes scalars so that ``Loader`` reads the same value."""

    yaml_implicit_resolvers = {}  # noqa: RUF012


for _name, (_pattern, _starts) in RESOLVERS.items():
    for _class in (Loader, PackagedLoader, Dumper):
        _class.add_implicit_resolver(TAG + _name, re.compile(f"^(?:{_pattern})$"), _starts)


def _represent_text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    """Keep a text of several lines on one line, with escapes."""
    return dumper.represent_scalar(TAG + "str", text, style='"' if "\n" in text else None)


Dumper.add_representer(str, _represent_text)


@dataclass(frozen=True)
class Origin:
    """Where a value is written.

    Attributes:
        file: as shown to a person, see ``shown_path``.
        line: 1-based, or None for a value that is not from a file.
    """

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Document:
    """A mapping with the origin of each of its keys.

    Attributes:
        data: plain dictionaries, lists and scalars.
        origins: key path -> where that key stands; ``()`` is the mapping itself.
    """

    data: dict[str, Any]
    origins: Mapping[KeyPath, Origin]

    def origin(self, path: KeyPath) -> Origin:
        """Return the origin of the nearest enclosing key that is written down."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]

    def entry(self, name: str) -> "Document":
        """Return one top-level mapping as a document of its own."""
        origins = {path[1:]: origin for path, origin in self.origins.items() if path[:1] == (name,)}
        return Document(self.data[name], origins)


def shown_path(path: Path) -> str:
    """Return a path relative to the working folder or to the installed package, else in full."""
    for folder in (Path.cwd(), PACKAGE_PARENT):
        if path.absolute().is_relative_to(folder):
            return str(path.absolute().relative_to(folder))
    return str(path)


def read_yaml(path: Path, may_be_empty: bool = False) -> Document:
    """Read a file that holds one mapping.

    Args:
        may_be_empty: a file without any key, say of comments only, is an empty mapping.

    Raises:
        UserError: not readable, not UTF-8, not YAML, empty, not a mapping, a repeated key, an alias or a tag.
    """
    shown = shown_path(path)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(f"{shown} does not exist; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{shown} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{shown} cannot be read ({error.strerror}); check the path") from None
    node = _compose(text, shown, PackagedLoader if path.is_relative_to(PACKAGE) else Loader)
    if node is None and may_be_empty:
        return Document({}, {(): Origin(shown)})
    if node is None:
        raise UserError(f"{shown} is empty; write at least one key in it or delete it")
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{shown}:{_line(node)}: the file must be a mapping (key: value), not {_kind(node)}")
    origins: dict[KeyPath, Origin] = {(): Origin(shown, _line(node))}
    return Document(_value(node, (), shown, origins), origins)


def parse_value(text: str, where: str) -> Any:
    """Read one value written on a command line (``1e-5``, ``null``, ``[test]``); ``where`` names it in errors."""
    node = _compose(text, where)
    return None if node is None else _value(node, (), where, {})


def dump_value(value: Any) -> str:
    """Write a scalar or a list on one line, so that ``Loader`` reads the same value."""
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def merge(parent: Document, child: Document) -> Document:
    """Lay ``child`` over ``parent``: mappings merge by key, lists and scalars replace, null removes.

    A null that removes nothing stays as a value, so that a misspelt key is still seen by the typed check.
    """
    origins = dict(parent.origins)
    data = _merge(parent.data, child, (), origins)
    origins[()] = child.origins[()]
    return Document(data, origins)


def _merge(parent: dict[str, Any], child: Document, path: KeyPath, origins: dict[KeyPath, Origin]) -> dict[str, Any]:
    merged = dict(parent)
    for key, value in _at(child.data, path).items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            origins[here] = child.origins[here]
            merged[key] = _merge(merged[key], child, here, origins)
            continue
        for old in [old for old in origins if old[: len(here)] == here]:
            del origins[old]
        if value is None and key in merged:
            del merged[key]
        else:
            merged[key] = value
        origins.update({new: o for new, o in child.origins.items() if new[: len(here)] == here})
    return merged


def _at(data: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    for key in path:
        data = data[str(key)]
    return data


@functools.lru_cache(maxsize=256)
def _compose(text: str, shown: str, loader: type[Any] = Loader) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = " ".join((error.problem or error.context or "unreadable").split())
        raise UserError(f"{shown}{line}: not valid YAML: {problem}; mend that line") from None
    except yaml.reader.ReaderError as error:
        raise UserError(f"{shown}: not valid YAML: character #{error.position} is not allowed; remove it") from None
    except RecursionError:
        raise UserError(f"{shown}: nested too deeply; write a flatter file") from None
    return node


def _value(node: yaml.Node, path: KeyPath, shown: str, origins: dict[KeyPath, Origin]) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
        return _mapping(node, path, shown, origins)
    if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
        values = []
        for number, item in enumerate(node.value):
            origins[(*path, number)] = Origin(shown, _line(item))
            values.append(_value(item, (*path, number), shown, origins))
        return values
    name = node.tag.removeprefix(TAG)
    if name == "int" and len(node.value) > MOST_DIGITS:
        raise UserError(
            f"{shown}:{_line(node)}: a whole number has more than {MOST_DIGITS} digits; write a smaller one"
        )
    if isinstance(node, yaml.ScalarNode) and name in SCALARS:
        return SCALARS[name](node.value)
    raise UserError(f"{shown}:{_line(node)}: tag {node.tag} is not read here; write the plain value")


def _mapping(node: yaml.MappingNode, path: KeyPath, shown: str, origins: dict[KeyPath, Origin]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{shown}:{line}: a key must be plain text, not {_kind(key_node)}")
        key = key_node.value
        here = (*path, key)
        if key in data:
            raise UserError(
                f"{shown}:{line}: key '{dotted(here)}' is written twice (first in line {origins[here].line}); "
                "keep one of them"
            )
        origins[here] = Origin(shown, line)
        data[key] = _value(value_node, here, shown, origins)
    return data


def dotted(path: KeyPath) -> str:
    """Return a key path as people write it: ``mixture.pair_sets[0]``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _int(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _int,
    "float": _float,
    "str": str,
}
