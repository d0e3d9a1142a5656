"""A look at a source: what its rows are understood as, with nothing kept."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.errors import UserError
from rm_workflow.hub import SourceFile
from rm_workflow.preferences import adapters
from rm_workflow.preferences.files import BrokenLine, Row
from rm_workflow.preferences.shapes import Shapes
from rm_workflow.preferences.tables import ROW_RULES, RowDropped
from rm_workflow.preferences.understanding import (
    FileCount,
    LookedUp,
    Outcome,
    dropped_row,
    look_up,
    nothing_used,
    outcomes,
    refuse_bad_file,
    with_rows,
)

# Rows between two words of progress.
PROGRESS_ROWS = 4096

Progress = Callable[[int, int | None], None]


def preview(
    name: str, source: Source, files: Sequence[SourceFile], num_rows: int = 5, progress: Progress | None = None
) -> dict[str, Any]:
    """Read all rows as ``build_raw`` does, keep nothing, and return what the first rows were understood as.

    Args:
        num_rows: rows of each file to return.
        progress: told (rows of all files read so far, None) now and then.

    Returns:
        ``{"source", "adapter", "files": [file], "refused"}``. A file is ``{"file", "split", "sha256", "columns": [],
        "num_rows", "num_used", "dropped": {rule: rows}, "other_shapes": [as ``Shapes.others``], "rows": [row]}``, a row
        ``{"row", "group_id", "messages", "responses": [{"slot", "text", "model", "ratings", "extra", "steps",
        "labels"}]}`` (``steps`` is the text cut at its step ends, a label ``{"kind", "value", "step"}``), or ``{"row",
        "rule", "reason", "detail", "excerpt"}`` where it was dropped. ``refused`` is the sentence with which
        ``build_raw`` refuses the files, or None.

    Raises:
        UserError: the adapter or a key of ``columns`` is unknown.
    """
    adapters.check_source(name, source)
    looks = []
    before = 0
    looked_up = look_up(name, source, files)
    for file in with_rows(source, files):
        looks.append(_look(name, source, file, num_rows, _counted_from(before, progress), looked_up))
        before += looks[-1].count.rows
    return {
        "source": name,
        "adapter": source.adapter,
        "files": [look.as_json() for look in looks],
        "refused": next((look.refused for look in looks if look.refused), None) or _unusable(name, looks),
    }


@dataclass
class _Look:
    """What a look at one file found, which may have ended early."""

    file: SourceFile
    count: FileCount = field(default_factory=FileCount)
    rows: list[dict[str, Any]] = field(default_factory=list)
    shapes: Shapes = field(default_factory=Shapes)
    first_dropped: dict[str, Any] | None = None
    refused: str | None = None

    def as_json(self) -> dict[str, Any]:
        dropped = {rule: self.count.dropped[rule] for rule in ROW_RULES}
        return {
            "file": self.file.file,
            "split": self.file.split,
            "sha256": self.file.sha256,
            "columns": list(self.count.columns),
            "num_rows": self.count.rows,
            "num_used": self.count.rows - self.count.dropped.total(),
            "dropped": dropped,
            "other_shapes": self.shapes.others(),
            "rows": self.rows,
        }


def _look(
    name: str, source: Source, file: SourceFile, num_rows: int, progress: Progress | None, looked_up: LookedUp
) -> _Look:
    look = _Look(file)
    try:
        for number, row, outcome in outcomes(source, adapters.get(source.adapter), file, look.count, looked_up):
            if look.first_dropped is None and isinstance(outcome, RowDropped):
                look.first_dropped = dropped_row({"file": file.file, "row": number}, row, outcome)
            if isinstance(row, dict) and (not isinstance(outcome, RowDropped) or outcome.rule == "bad_field"):
                look.shapes.note(number, row, used=not isinstance(outcome, RowDropped))
            if len(look.rows) < num_rows:
                look.rows.append({"row": number, **_shown_outcome(row, outcome)})
            if progress and look.count.rows % PROGRESS_ROWS == 0:
                progress(look.count.rows, None)
        refuse_bad_file(name, source, file, look.count)
    except UserError as error:
        look.refused = str(error)
    return look


def _counted_from(before: int, progress: Progress | None) -> Progress | None:
    return (lambda rows, total: progress(before + rows, total)) if progress else None


def _unusable(name: str, looks: Sequence[_Look]) -> str | None:
    """Return the sentence of ``nothing_used``, or None where a row of any file can be used."""
    dropped = sum((look.count.dropped for look in looks), Counter[str]())
    if dropped.total() < sum(look.count.rows for look in looks):
        return None
    # The build tells the first row in the order of the published table.
    first = min((look.first_dropped for look in looks if look.first_dropped), key=lambda row: str(row["file"]))
    return nothing_used(name, {rule: dropped[rule] for rule in ROW_RULES}, first)


def _shown_outcome(row: Row | BrokenLine, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, RowDropped):
        dropped = dropped_row({}, row, outcome)
        return {key: dropped[key] for key in ("rule", "reason", "detail", "excerpt")}
    group_id, example = outcome
    responses = [
        {
            "slot": response.slot,
            "text": response.text,
            "model": response.model,
            "ratings": dict(response.ratings),
            "extra": dict(response.extra),
            "steps": response.steps,
            "labels": [asdict(label) for label in response.labels],
        }
        for response in example.responses
    ]
    return {"group_id": group_id, "messages": list(example.messages), "responses": responses}
