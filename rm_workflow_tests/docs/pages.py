"""Pages of docs that are made from the code: ``python -m rm_workflow_tests.docs`` writes them anew."""

import importlib
import inspect
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rm_workflow.catalog.loading import BUILT_IN, load_catalog
from rm_workflow.catalog.models import Source
from rm_workflow.catalog.schema import FILES, REMOVES
from rm_workflow.checked_catalog import write_schemas
from rm_workflow.cli.examples import lines as examples
from rm_workflow.preferences import adapters, rules
from rm_workflow_tests.docs import environment
from rm_workflow_tests.docs.blocks import PROJECT
from rm_workflow_tests.docs.commands import root
from rm_workflow_tests.preferences.sources import settings

COMMAND = "python -m rm_workflow_tests.docs"
MADE = f"<!-- made from the code by `{COMMAND}` -->\n"
REFERENCE = PROJECT / "docs/reference"
SCHEMA_SQL = PROJECT / "rm_workflow/lineage/schema.sql"
SOURCES = re.compile(r"(<!-- sources -->\n).*?(<!-- end -->)", re.DOTALL)
SOURCES_HEAD = (
    "| source | from | adapter | published rows | licence | attribution | real rows |\n" + "| --- " * 7 + "|\n"
)
# A line of SQL that begins a table or view, with the comment above it.
TABLE = re.compile(r"((?:^-- [^\n]*\n)*)^create (table|view) (\w+)(.*?);$", re.MULTILINE | re.DOTALL)


def pages() -> dict[Path, str]:
    """Return each file -> its text as it should be."""
    data = PROJECT / "docs/data.md"
    with tempfile.TemporaryDirectory() as scratch:
        table = SOURCES_HEAD + "".join(_source_rows(Path(scratch)))
        schemas = {path.name: path.read_text("utf-8") for path in write_schemas(Path(scratch) / "schemas", None)}
    return {
        **{BUILT_IN / "schemas" / file: text for file, text in schemas.items()},
        REFERENCE / "cli.md": _cli(),
        REFERENCE / "yaml.md": _yaml(schemas),
        REFERENCE / "rules.md": _rules(),
        REFERENCE / "tables.md": _tables(),
        REFERENCE / "environment.md": environment.page(MADE),
        PROJECT / "docs/index.md": _index(),
        data: SOURCES.sub(lambda found: found[1] + table + found[2], data.read_text("utf-8")),
    }


# All pages

PARTS = {
    "Begin": ["tutorial.md"],
    "How to": ["how-to/*.md"],
    "Explanation": ["explanation/*.md"],
    "Reference": ["reference/*.md"],
    "Further": ["*.md"],
}


def _index() -> str:
    docs = PROJECT / "docs"
    listed: set[Path] = {docs / "index.md"}
    text = f"# Documentation\n\n{MADE}\nWhat it is, and the first two commands: [README](../README.md).\n"
    for part, patterns in PARTS.items():
        pages = [path for pattern in patterns for path in sorted(docs.glob(pattern)) if path not in listed]
        listed.update(pages)
        text += f"\n## {part}\n\n" + "".join(_page_line(path, docs) for path in pages)
    return text


def _page_line(path: Path, docs: Path) -> str:
    """Return a page's title with the first sentence of its text."""
    title, *parts = path.read_text("utf-8").split("\n\n")
    first = next((part for part in parts if not part.startswith(("<!--", "#", "|", "```"))), "")
    sentence = re.split(r"(?<=[.:;])\s", " ".join(first.split()))[0].rstrip(".:;")
    return f"- [{title.removeprefix('# ').strip()}]({path.relative_to(docs)}): {sentence}\n"


# The command line


def _verbs(command: Any, before: str = "rmw") -> Iterator[tuple[str, Any]]:
    for verb, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from _verbs(inner, f"{before} {verb}")
        else:
            yield f"{before} {verb}", inner


def _cli() -> str:
    verbs = dict(_verbs(root()))
    index = "".join(
        f"| [`{name}`](#{name.replace(' ', '-')}) | {_cell(_paragraphs(verb)[0])} |\n" for name, verb in verbs.items()
    )
    text = (
        f"# The command line\n\n{MADE}\n"
        "Verbs that print results take `--json`: JSON alone on stdout, logs on stderr ([shapes](json.md)). Exit 0\n"
        "only on success, 2 for wrong usage, 1 for all else; bad input is one line on stderr that begins `error:`. A\n"
        "checkpoint is named by its asset (`quickstart_checkpoint`: its latest), `asset@version`, `asset[run]` or\n"
        "`asset[run]@version` of a sweep, a folder, or `hub:org/name[@revision]`. In names `-` and `_` are one.\n\n"
        "`rmw --install-completion` lets the shell complete verbs, options, recipes, sources and assets;\n"
        "`rmw --show-completion` prints what it would install.\n\n"
        f"| verb | does |\n| --- | --- |\n{index}"
    )
    return text + "".join(_verb(name, verb) for name, verb in verbs.items())


def _paragraphs(verb: Any) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(verb.help or "").split("\n\n")]


def _verb(name: str, verb: Any) -> str:
    shown = [parameter for parameter in verb.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option" and parameter.name != "help"]
    usage = " ".join([name, *(_argument(parameter) for parameter in arguments), *(["[options]"] if options else [])])
    rows = [(f"`{_argument(parameter)}`", parameter) for parameter in arguments]
    rows += [(f"`{_option(parameter)}`", parameter) for parameter in options]
    table = "".join(
        f"| {written} | {_cell(parameter.help or '')}{_default(parameter)} |\n" for written, parameter in rows
    )
    told = "\n\n".join(_paragraphs(verb))
    shown_examples = "\n".join(examples(name.removeprefix("rmw ")))
    return (
        f"\n## {name}\n\n{told}\n\n```text\n{usage}\n```\n\n"
        + (f"| | |\n| --- | --- |\n{table}\n" if table else "")
        + f"<!-- not run: examples of the help, run on the pages about them -->\n```bash\n{shown_examples}\n```\n"
    )


def _argument(parameter: Any) -> str:
    metavar = parameter.metavar or parameter.name.strip("_").upper()
    return metavar if parameter.required else f"[{metavar.strip('[]')}]"


def _option(parameter: Any) -> str:
    written = ", ".join(parameter.opts)
    if parameter.is_flag:
        return written
    return f"{written} {parameter.metavar or parameter.name.strip('_').upper()}"


def _default(parameter: Any) -> str:
    value = parameter.default
    if callable(value) or value is None or value is False or value == [] or type(value).__name__ == "Sentinel":
        return ""
    return f" (default: `{value}`)" if parameter.param_type_name == "option" else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# The YAML files


def _yaml(schemas: Mapping[str, str]) -> str:
    parts = [
        f"# The YAML files\n\n{MADE}\n"
        "A catalogue is three files of entries by name, and a file for each recipe; yours is merged over the built-in\n"
        "one. `rmw init` and `rmw sources add` write a first line by which editors complete and check keys (JSON\n"
        "schema), and `rmw schema` renews what they offer. Unknown keys are errors. A recipe that `extends` another\n"
        "may leave out every key; mappings merge, lists and scalars replace, `null` removes what the parent has. The\n"
        "tables say `or null` where null is a value of its own; elsewhere a recipe without a parent may not have it.\n"
    ]
    for file, (written, model) in FILES.items():
        schema = json.loads(schemas[file])
        first = model.__name__
        whole = {name: part for name, part in schema.items() if name != "$defs"}
        definitions = {first: schema["$defs"].get(first, whole), **schema["$defs"]}
        parts.append(f"\n## {written}\n")
        for name, part in definitions.items():
            if not name.endswith("Fields") and not name.startswith("rm_workflow__"):
                parts.append(_type(name, part, file))
        if file == "pair_sets.json":
            parts.append("\nRules and their parameters: [rules.md](rules.md).\n")
    return "".join(parts)


def _type(name: str, schema: dict[str, Any], file: str) -> str:
    long = schema["anyOf"][-1] if "properties" not in schema else schema
    rows = "".join(
        f"| `{key}` | {_cell(_kind(field))} | {_value(field)} | {_cell(field.get('description', ''))} |\n"
        for key, field in long["properties"].items()
    )
    title = "entry" if FILES[file][1].__name__ == name and file != "recipe.json" else name
    head = "| key | value | default | meaning |\n| --- | --- | --- | --- |\n"
    return f"\n### {file.removesuffix('.json')}: {title}\n\n{schema['description']}\n\n{head}{rows}"


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        kinds = dict.fromkeys(_kind(form) for form in schema["anyOf"] if form != REMOVES)
        return " or ".join(kinds)
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {_kind(values)}" if isinstance(values, dict) else "mapping"
    words = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "`true`, `false`",
        "null": "null",
    }
    limits = [
        f"{sign} {schema[key]:,}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return " ".join([words.get(kind, kind), ", ".join(limits)]).strip()


def _value(field: dict[str, Any]) -> str:
    if "default" not in field:
        return ""
    value = field["default"]
    return "see there" if isinstance(value, dict) and value else f"`{json.dumps(value)}`"


# Rules and adapters


def _rules() -> str:
    sections = [
        f"# Rules and adapters\n\n{MADE}\n"
        "What each file says of itself. A new one is a new file in `rm_workflow/preferences/rules/` (and its place in\n"
        "the order there) or in `rm_workflow/preferences/adapters/`.\n\n## Rules, in the order in which they apply\n"
    ]
    for name, (_, parameters) in rules.parameter_types().items():
        module = importlib.import_module(f"rm_workflow.preferences.rules.{name}")
        rows = "".join(f"| `{key}` | {field.description} |\n" for key, field in parameters.model_fields.items())
        table = f"\n| parameter | is |\n| --- | --- |\n{rows}" if rows else ""
        sections.append(f"\n### {name}\n\n{_prose(module.__doc__ or '')}{table}")
    sections.append("\n## Adapters\n")
    for name in adapters.names():
        module = adapters.get(name)
        fields = ", ".join(f"`{field}`" for field in module.COLUMNS)
        sections.append(f"\n### {name}\n\n{_prose(module.__doc__ or '')}\nFields of `columns`: {fields or 'none'}.\n")
    return "".join(sections)


def _prose(doc: str) -> str:
    """Return a docstring as Markdown: what is indented, and examples, as they stand."""
    parts = []
    for part in inspect.cleandoc(doc).replace("``", "`").replace("::\n", ":\n").split("\n\n"):
        lines = part.splitlines()
        is_example = all(line.startswith(" ") for line in lines) or re.match(r"[\w ]+: [\[{]", part)
        parts.append(f"```text\n{part}\n```" if is_example else "\n".join(_escaped(line) for line in lines))
    return "\n\n".join(parts) + "\n"


def _escaped(line: str) -> str:
    return re.sub(r"<(?=[|a-z])(?![^`]*`)", "&lt;", line) if "`" not in line else line


# The lineage tables


def _tables() -> str:
    text = SCHEMA_SQL.read_text("utf-8")
    parts = [
        f"# Tables of lineage.duckdb\n\n{MADE}\n"
        "From `rm_workflow/lineage/schema.sql`; what to ask, with examples: [lineage](../lineage.md).\n"
    ]
    for comment, kind, name, body in TABLE.findall(text):
        told = " ".join(line.removeprefix("-- ") for line in comment.splitlines())
        parts.append(f"\n## {name}{' (view)' if kind == 'view' else ''}\n\n{told}\n")
        if kind == "table":
            columns = re.findall(r"(\w+) ([\w\[\]]+(?:\(.*?\))?)(?:,|\s*\)|$)", body.strip().removeprefix("("))
            rows = "".join(f"| `{column}` | {type_} |\n" for column, type_ in columns)
            parts.append(f"\n| column | type |\n| --- | --- |\n{rows}")
    return "".join(parts)


# The table of sources in docs/data.md


def _source_rows(folder: Path) -> Iterator[str]:
    for name, source in load_catalog(settings(folder)).sources.items():
        yield _source_row(name, source)


def _source_row(name: str, source: Source) -> str:
    published = ", ".join(f"{split} {number:,}" for split, number in source.published_rows.items())
    cells = (
        f"`{name}`",
        source.hub or (source.path or "").removeprefix(f"{BUILT_IN}/"),
        f"`{source.adapter}`",
        published,
        source.licence,
        source.attribution,
        "yes" if source.proven_on_real_rows else "no",
    )
    return "| " + " | ".join(cells) + " |\n"
