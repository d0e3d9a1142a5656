"""Worked solutions for the tests of this package."""

from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences import adapters
from rm_workflow.preferences.tables import Example


def source(adapter: str, **fields: Any) -> Source:
    entry = Source(path="folder", files={"train": ["a.jsonl"]}, adapter=adapter, licence="CC0", **fields)
    adapters.check_source("maths", entry)
    return entry


def read(row: dict, adapter: str, **fields: Any) -> Example:
    return adapters.get(adapter).read(row, source(adapter, **fields))


def said(example: Example) -> list[tuple[str, list[str], list[tuple]]]:
    """Return slot, steps and labels of each response."""
    return [
        (
            response.slot,
            [step.strip() for step in response.steps],
            [(label.kind, label.value, label.step) for label in response.labels],
        )
        for response in example.responses
    ]


def turns(*contents: str) -> list[dict[str, str]]:
    """Return a dialogue that a user begins."""
    return [
        {"role": "user" if number % 2 == 0 else "assistant", "content": content}
        for number, content in enumerate(contents)
    ]
