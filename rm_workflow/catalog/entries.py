"""New entries of the user's catalogue, written behind what stands there already."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rm_workflow.catalog.yaml_file import dump_value, read_yaml, shown_path
from rm_workflow.durable_files import locked
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings

DRAFT = ".draft"
LOCK = ".lock"


def user_folder(settings: Settings) -> Path:
    """Return the folder that is merged over the built-in catalogue; it may not exist yet.

    Raises:
        UserError: no folder is named and there is no project here.
    """
    if settings.catalog:
        return settings.catalog
    if settings.project:
        return settings.project / "catalog"
    raise UserError(
        "there is no catalogue of your own to write to; make a project with rmw init NAME and go there, or set "
        "RMW_CATALOG to a folder"
    )


@contextmanager
def locked_catalog(folder: Path) -> Iterator[None]:
    """Keep others from adding to a catalogue folder, so that what is read in it holds until it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK):
        yield


def add_entries(
    folder: Path, entries: Mapping[str, Mapping[str, Mapping[str, Any]]], first_lines: Mapping[str, str] | None = None
) -> list[Path]:
    """Append entries to files of a catalogue folder and return the files; all other lines stay as they are.

    The files are replaced in the order given; call it under ``locked_catalog``.

    Args:
        first_lines: file -> what a new file begins with.
        entries: ``{file: {name: entry}}``, for instance ``{"sources.yaml": {"mine": {"path": "rows", ...}}}``.

    Raises:
        UserError: a file cannot be continued, also where it holds an entry of that name; nothing is changed then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / file for file in entries]
    targets = [path.resolve() for path in paths]  # a link stays a link
    drafts = [target.with_name(target.name + DRAFT) for target in targets]
    try:
        for path, draft, added in zip(paths, drafts, entries.values(), strict=True):
            _write_draft(path, draft, added, (first_lines or {}).get(path.name, ""))
        for target, draft in zip(targets, drafts, strict=True):
            draft.replace(target)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)
    return paths


def _write_draft(path: Path, draft: Path, added: Mapping[str, Mapping[str, Any]], first_line: str) -> None:
    known = read_yaml(path, may_be_empty=True).data if path.exists() else {}
    text = path.read_bytes().decode("utf-8") if path.exists() else first_line
    line_end = "\r\n" if "\r\n" in text else "\n"
    blocks = [text, *(_block(name, entry).replace("\n", line_end) for name, entry in added.items())]
    draft.write_bytes(line_end.join(block for block in blocks if block).encode("utf-8"))
    if not _reads_as(draft, {**known, **added}):
        raise UserError(
            f"{shown_path(path)} cannot be continued by plain lines; write its entries one below the other "
            "(name:, then its keys on indented lines)"
        )


def _block(name: str, entry: Mapping[str, Any]) -> str:
    return "".join([f"{name}:\n", *(f"  {key}: {dump_value(value)}\n" for key, value in entry.items())])


def _reads_as(path: Path, data: Mapping[str, Any]) -> bool:
    try:
        return read_yaml(path).data == data
    except UserError:
        return False
