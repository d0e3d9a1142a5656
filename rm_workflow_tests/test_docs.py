"""The documents say what the catalogue and the code hold; run as a module, this writes their tables anew."""

import re
import tempfile
from pathlib import Path

from rm_workflow.catalog.loading import BUILT_IN, load_catalog
from rm_workflow.catalog.models import Source
from rm_workflow.preferences import adapters
from rm_workflow_tests.preferences.sources import settings

PROJECT = Path(__file__).parents[1]
DATA = PROJECT / "docs" / "data.md"
TABLE = re.compile(r"(<!-- sources -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = "| source | from | adapter | published rows | licence | attribution | real rows |\n" + "| --- " * 7 + "|\n"


def table(folder: Path) -> str:
    """Return the table of all built-in sources."""
    sources = load_catalog(settings(folder)).sources
    return HEAD + "".join(row(name, source) for name, source in sources.items())


def row(name: str, source: Source) -> str:
    rows = ", ".join(f"{split} {number:,}" for split, number in source.published_rows.items())
    real = "yes" if source.proven_on_real_rows else "no"
    cells = (
        f"`{name}`",
        source.hub or (source.path or "").removeprefix(f"{BUILT_IN}/"),
        f"`{source.adapter}`",
        rows,
        source.licence,
        source.attribution,
        real,
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def test_the_table_of_sources_is_that_of_the_catalogue(tmp_path: Path):
    found = TABLE.search(DATA.read_text("utf-8"))
    assert found is not None
    assert found[0] == f"<!-- sources -->\n{table(tmp_path)}<!-- end -->", "python -m rm_workflow_tests.test_docs"


def test_the_readme_names_each_adapter_in_its_table():
    readme = (PROJECT / "README.md").read_text("utf-8")
    assert [name for name in adapters.names() if f"\n| `{name}` |" not in readme] == []


def test_the_sources_whose_file_names_are_by_convention_exist(tmp_path: Path):
    sources = load_catalog(settings(tmp_path)).sources
    (named,) = re.findall(r"but for (.*?), where they follow", DATA.read_text("utf-8"), re.DOTALL)
    for name in re.findall(r"`([a-z0-9_]+)(?:\*)?`", named):
        assert any(source.startswith(name) for source in sources), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        DATA.write_text(TABLE.sub(lambda found: found[1] + table(Path(scratch)) + found[2], DATA.read_text("utf-8")))
