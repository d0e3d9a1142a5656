"""A preference test set of any source: is the reply that people chose scored above the other one?

One native row, in any of the forms that the adapters ``hh_transcript`` and ``chosen_rejected`` read::

    {"chosen": "\\n\\nHuman: Name a river.\\n\\nAssistant: The Danube.",
     "rejected": "\\n\\nHuman: Name a river.\\n\\nAssistant: No."}
    {"prompt": "Name a river.", "chosen": "The Danube.", "rejected": "No.", "source": "mine"}

One scored row, which ``pairs`` reads as well::

    {"id": "5d1c...", "source": "base", "group": "88ab...", "score_chosen": 1.5, "score_rejected": -0.2}

The rule is that of ``pairs``: **a tie is a loss**; pairs that begin with the same question are clustered. Where a row
names no ``source``, the split that its file stands under in the catalogue does. Passed over and counted are rows that
are no pair: the sides answer different dialogues or are the same text, a message is empty, turns do not alternate.
"""

from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.evaluation import items
from rm_workflow.evaluation.benchmarks.pairs import aggregate, headline, parts
from rm_workflow.evaluation.items import FieldError, Item, Row, ScoredItem
from rm_workflow.keys import content_id
from rm_workflow.preferences import adapters
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.tables import Example, RowDropped

__all__ = ["aggregate", "headline", "is_mine", "parts", "read_item", "scored_row"]

# Adapters read the columns of a source; here they bear the adapters' own names.
READ_AS = Source(path="rows", files={"test": ["rows"]}, adapter="chosen_rejected", licence="unknown")
TRANSCRIPT = "\n\nHuman:"


def is_mine(row: Row) -> bool:
    """Return whether a row is a pair; one that cannot be read is, so that it is told."""
    try:
        chosen, rejected = _read(row).responses
    except RowDropped as dropped:
        return dropped.rule == "bad_field"
    return chosen.text != rejected.text


def read_item(row: Row) -> Item:
    """Read a row of either form."""
    try:
        example = _read(row)
    except RowDropped as dropped:
        raise FieldError(f"{dropped.reason} ({dropped.detail}); mend the row") from None
    messages = [{"role": str(turn["role"]), "content": turn["content"]} for turn in example.messages]
    texts = [response.text for response in example.responses]
    question = next(turn["content"] for turn in messages if turn["role"] == "user")
    identity = row["id"] if "id" in row else content_id([messages, *texts])
    meta = {"id": identity, "group": content_id(normalise(question))}
    return Item(items.text(row, "source" if "source" in row else "split"), messages, texts, 1, meta)


def scored_row(item: ScoredItem) -> dict[str, Any]:
    """Return the row of a score file, as ``aggregate`` reads it."""
    chosen, rejected = item.scores
    occurrence = item.meta.get("occurrence")
    return {
        "id": f"{item.meta['id']} #{occurrence}" if occurrence else item.meta["id"],
        "source": item.subset,
        "group": item.meta["group"],
        "score_chosen": chosen,
        "score_rejected": rejected,
    }


def _read(row: Row) -> Example:
    is_transcript = "prompt" not in row and str(row.get("chosen")).startswith(TRANSCRIPT)
    return adapters.get("hh_transcript" if is_transcript else "chosen_rejected").read(row, READ_AS)
