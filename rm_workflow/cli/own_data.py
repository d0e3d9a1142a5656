"""What a file of the user's own is: the adapter that understands its first rows, and its catalogue entries."""

import codecs
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.catalog.yaml_file import dump_value
from rm_workflow.cli.own_columns import ALIASES, SCORES, Columns, Unclear, guess
from rm_workflow.cli.own_labels import Winner, guess_winner
from rm_workflow.errors import UserError
from rm_workflow.preferences import adapters
from rm_workflow.preferences.adapters import labelled_list
from rm_workflow.preferences.adapters._fields import EXTRA, value_at
from rm_workflow.preferences.files import BrokenLine, Row, read_rows
from rm_workflow.preferences.tables import PREFERENCE, ColumnMissing, Example, RowDropped
from rm_workflow.preferences.understanding import understand

# Adapters that are tried; of two that understand as many rows the first is taken, so the more special stands first.
FORMS = {
    "hh_transcript": "two whole transcripts",
    "chosen_rejected": "a chosen and a rejected reply",
    "labelled_list": "several responses with a label for each two",
    "scored_completions": "several rated completions a row",
    "labelled_pair": "two responses with a label or votes",
    "rated_response": "one rated response a row",
}
COLUMN_MISSING = ColumnMissing("").reason  # how the problem of an adapter begins that lacks one
LOOKED_AT = 100  # rows
CANDIDATES = ("responses", *ALIASES["responses"])  # columns that may hold a list of plain replies
# Adapters that read labels, and their field for them.
LABELS = {"labelled_pair": "label", "labelled_list": "labels"}
GIVEN_RULES = ("identical_responses", "exact_duplicate")


@dataclass(frozen=True)
class Said:
    """What the user says of a file.

    Attributes:
        adapter: taken as it is; None tries ``FORMS``.
        columns: field of the adapter -> column of the file, see ``Source``.
        winner: side -> labels that mean it, as text.
    """

    adapter: str | None
    columns: Mapping[str, str]
    winner: Mapping[str, Sequence[str]]
    licence: str


@dataclass(frozen=True)
class OwnData:
    """A file as it would stand in the catalogue.

    Attributes:
        source: the source with an absolute path.
        ratings: names of the ratings that were met.
    """

    source: Source
    ratings: list[str] = field(default_factory=list)

    def entries(self, name: str, catalog_folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the entries of ``sources.yaml`` and ``pair_sets.yaml``; the path is relative where that is short."""
        folder = Path(str(self.source.path))
        near = folder.is_relative_to(catalog_folder.parent)
        written = {"files", "adapter", "columns", "winner", "licence"}
        source = {
            "path": os.path.relpath(folder, catalog_folder) if near else str(folder),
            **self.source.model_dump(include=written, exclude_defaults=True),
        }
        return {"sources.yaml": {name: source}, "pair_sets.yaml": {name: {"source": name, **self.pair_set()}}}

    def pair_set(self) -> dict[str, Any]:
        """Return candidates, score and rules that fit the form."""
        adapter = self.source.adapter
        if adapter == "labelled_pair":
            # Where no two rows are on the same two responses, summing their votes changes nothing.
            candidates = "voted" if self.source.winner else "given"
            return {"candidates": candidates, "score": [PREFERENCE], "rules": ["equal_score", *GIVEN_RULES]}
        if adapter == "labelled_list":
            return {"candidates": "labelled", "score": [PREFERENCE], "rules": ["rating", "equal_score", *GIVEN_RULES]}
        if adapter in ("scored_completions", "rated_response"):
            candidates = "rated" if adapter == "scored_completions" else "rated_prompt"
            return {"candidates": candidates, "score": self.ratings, "rules": ["rating", "equal_score", *GIVEN_RULES]}
        return {"candidates": "given", "rules": list(GIVEN_RULES)}

    def in_words(self) -> str:
        """Return one line that says how the file is understood."""
        adapter = self.source.adapter
        columns = [f"{name} from {column!r}" for name, column in self.source.columns.items()]
        sides = [f"{side} wins: {dump_value(labels)}" for side, labels in self.source.winner.items() if side != "tie"]
        ties = [f"tie: {dump_value(labels)}" for side, labels in self.source.winner.items() if side == "tie"]
        pair_set = self.pair_set()
        ranked = [f"ranked by {', '.join(pair_set['score'])}"] if self.ratings and "score" in pair_set else []
        parts = [*columns, *sides, *ties, *ranked, f"candidates {pair_set['candidates']}"]
        return f"understood as {FORMS.get(adapter, 'rows')} (adapter {adapter}): {'; '.join(parts)}"


def understand_file(name: str, file: Path, said: Said) -> OwnData:
    """Return what a JSON Lines, CSV or Parquet file is, by its first rows (labels: by all).

    Raises:
        UserError: the file cannot be read, no adapter understands any of its first rows, or something must be said.
    """
    numbered = list(islice(read_rows(file, str(file)), LOOKED_AT))
    if not numbered:
        raise UserError(f"{file} has 0 rows; nothing is added; mend the file")
    rows = [row for _, row in numbered]
    plain = [row for row in rows if isinstance(row, dict)]
    number, first = numbered[0]
    if isinstance(first, BrokenLine) and not plain:
        rest = ", nor can the next ones" if len(numbered) > 1 else ""
        problem = f"line {number} cannot be read ({first.reason}){rest}"
        raise UserError(f"{file}: {problem}; {_mend(file, first)}")
    tried = [said.adapter] if said.adapter else [adapter for adapter in FORMS if _has_fields(adapter, said)]
    sources: dict[str, Source] = {}
    unclear: dict[str, str] = {}
    for adapter in tried:
        try:
            sources[adapter] = _source(file, adapter, plain, said)
        except Unclear as question:
            unclear[adapter] = str(question)
    for source in sources.values():
        if not _lacks_labels(source):
            adapters.check_source(name, source)
        elif said.adapter:
            raise UserError(
                f"{file}: no row has the fields {_label_fields(source)} of adapter {source.adapter}; it has the "
                f"columns {_columns_of(plain)}: map them with --column FIELD=COLUMN"
            )
    return _best(file, rows, sources, unclear, said)


def _mend(file: Path, line: BrokenLine) -> str:
    with file.open("rb") as raw:
        start = raw.read(2)
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "the file is UTF-16: convert it, as with iconv -f UTF-16 -t UTF-8"
    if line.reason.startswith("not UTF-8"):
        return "convert the file, as with iconv -f ISO-8859-1 -t UTF-8 if that is its encoding"
    if line.text.startswith("["):
        return "the file is one JSON array: write one object a line, as with jq -c '.[]'"
    return "mend the file: one JSON object a line, or a CSV file of as many cells in each row as its header has"


def _has_fields(adapter: str, said: Said) -> bool:
    """Return whether an adapter has all that the user has named."""
    module = adapters.get(adapter)
    prefixes = getattr(module, "PREFIXES", (EXTRA,))
    fields = all(key in module.COLUMNS or key.startswith(prefixes) for key in said.columns)
    return fields and (not said.winner or getattr(module, "READS_WINNER", False))


def _lacks_labels(source: Source) -> bool:
    return source.adapter in LABELS and not source.winner and "votes_a" not in source.columns


def _label_fields(source: Source) -> str:
    return "response_a, response_b and label" if source.adapter == "labelled_pair" else "responses and labels"


def _columns_of(rows: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(column for row in rows for column in row)) or "(none)"


def _source(file: Path, adapter: str, rows: Sequence[Row], said: Said) -> Source:
    """Return the source of one adapter, without ``winner`` where the rows have no labels for it.

    Raises:
        Unclear: its columns or labels are not clear.
    """
    columns = guess(adapter, rows, said.columns)
    winner = _winner(file, adapter, columns, rows, said)
    fields: dict[str, Any] = {"adapter": adapter, "columns": columns, "winner": winner, "licence": said.licence}
    return Source(path=str(file.parent), files={"train": [file.name]}, **fields)


def _winner(file: Path, adapter: str, columns: Columns, rows: Sequence[Row], said: Said) -> Winner:
    if adapter not in LABELS or "votes_a" in columns:
        return {}
    column = columns.get(LABELS[adapter], LABELS[adapter])
    if not any(_holds_responses(adapter, columns, row) and column.split(".")[0] in row for row in rows):
        return {}
    labels: dict[str, Any] = {}
    for _, row in read_rows(file, str(file)):
        for label in [] if isinstance(row, BrokenLine) else _labels_of(row, column):
            labels.setdefault(repr(label), label)
    return guess_winner(column, list(labels.values()), said.winner)


def _holds_responses(adapter: str, columns: Columns, row: Row) -> bool:
    if adapter == "labelled_pair":
        return all(columns.get(key, key) in row for key in ("response_a", "response_b"))
    named = [column for key, column in columns.items() if key.startswith(labelled_list.RESPONSE)]
    in_list = "labels" in columns or isinstance(row.get("labels"), list)
    return all(column in row for column in named) if named else in_list and columns.get("responses", "responses") in row


def _labels_of(row: Row, column: str) -> list[Any]:
    try:
        value = value_at(row, column)
    except RowDropped:
        return []
    return [label for label in value if label is not None] if isinstance(value, list) else [value]


def _best(
    file: Path,
    rows: Sequence[Row | BrokenLine],
    sources: Mapping[str, Source],
    unclear: Mapping[str, str],
    said: Said,
) -> OwnData:
    """Return the adapter that understands the most rows; a question is asked only where none understands any."""
    examples: dict[str, list[Example]] = {}
    problems: dict[str, str] = {}
    for adapter, source in sources.items():
        if _lacks_labels(source):
            problems[adapter] = f"{COLUMN_MISSING} ({_label_fields(source)})"
            continue
        examples[adapter], drops = _try(rows, source)
        problems[adapter] = drops.most_common(1)[0][0] if drops else "no rows"
    best = max(examples, key=lambda adapter: len(examples[adapter]), default=None)
    if not said.adapter and not (best and examples[best]):
        _refuse_unrated_candidates(file, rows)
    if unclear and not (best and examples[best]):
        raise UserError(f"{file}: {next(iter(unclear.values()))}")
    if best is None:
        named = ", ".join([*said.columns, *(["labels (--winner)"] if said.winner else [])])
        raise UserError(f"--column: no adapter of {', '.join(FORMS)} has the fields {named}")
    # An adapter that was asked for is taken; the check of all rows refuses it in the words of the build.
    if not examples[best] and not said.adapter:
        columns = _columns_of([row for row in rows if isinstance(row, dict)])
        # Where an adapter has found its columns, those that have not are beside the point.
        found = {adapter: told for adapter, told in problems.items() if not told.startswith(COLUMN_MISSING)}
        tried = "; ".join(f"{adapter}: {told}" for adapter, told in (found or problems).items())
        mend = "mend the rows, or map the columns" if found else "map them"
        raise UserError(
            f"{file}: no adapter understands its first rows ({tried}); it has the columns {columns}: "
            f"{mend} with --column FIELD=COLUMN, or choose with --adapter"
        )
    return _with_ratings(file, sources[best], examples[best], rows)


def _refuse_unrated_candidates(file: Path, rows: Sequence[Row | BrokenLine]) -> None:
    """Refuse rows that hold several plain responses and nothing that ranks them, in words that say what to do."""
    first = next((row for row in rows if isinstance(row, dict)), {})
    lists = {name: value for name, value in first.items() if isinstance(value, list) and len(value) > 1}
    plain = (name for name in CANDIDATES if all(isinstance(one, str) for one in lists.get(name, [None])))
    column = next(plain, None)
    if column is None or any(name in first for name in (*SCORES, "labels", "label")):
        return
    raise UserError(
        f"{file}: column {column} holds candidates, and no rating or label ranks them, so they give no pairs; let a "
        f"checkpoint choose (rmw rank, which reads prompt and responses), or for rejection_sampling.candidates write "
        'each as {"text": ..., "score": 0} under completions and add that'
    )


def _refuse_labelled_responses(file: Path, rows: Sequence[Row | BrokenLine]) -> None:
    """Refuse rows of one response and a label of it alone, as KTO takes them, in words that say what to do."""
    first = next((row for row in rows if isinstance(row, dict)), {})
    column = next((name for name in ("label", *ALIASES["label"]) if name in first), None)
    if column is not None:
        raise UserError(
            f"{file}: column {column} labels each response alone, which gives no pairs; write the label as 1 or 0 to "
            "compare the responses to one prompt, or train an outcome model on it (objective scalar_orm): a row is "
            'then {"prompt": ..., "answers": [...], "label": [1]}, its source has the adapter labelled_answers'
        )


def _with_ratings(file: Path, source: Source, examples: Sequence[Example], rows: Sequence[Row | BrokenLine]) -> OwnData:
    if source.adapter not in ("scored_completions", "rated_response"):
        return OwnData(source)
    ratings = {rating for example in examples for response in example.responses for rating in response.ratings}
    if examples and not ratings:
        if source.adapter == "rated_response":
            _refuse_labelled_responses(file, rows)
        raise UserError(
            f"{file}: no response has a rating to rank by; name their field with --column ratings=FIELD, or where "
            "nobody rated them let a checkpoint do so: rmw score"
        )
    return OwnData(source, sorted(ratings))


def _try(rows: Sequence[Row | BrokenLine], source: Source) -> tuple[list[Example], Counter[str]]:
    examples: list[Example] = []
    drops: Counter[str] = Counter()
    for row in rows:
        try:
            examples.append(understand(row, source, adapters.get(source.adapter))[1])
        except RowDropped as drop:
            drops[f"{drop.reason} ({drop.detail})" if drop.detail else drop.reason] += 1
    return examples, drops
