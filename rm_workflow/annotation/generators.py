"""What writes solutions: a causal model here (transformers), or an endpoint with OpenAI's completions API."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Completion:
    """What a generator wrote after a prompt.

    Attributes:
        finished: it came to its own end, and was not cut at the most tokens.
    """

    text: str
    finished: bool


class Generator(Protocol):
    """A language model that continues texts."""

    def complete(self, prompts: Sequence[str], num_samples: int, seed: int) -> list[list[Completion]]:
        """Return so many continuations of each prompt, in the order of the prompts.

        Raises:
            UserError: the model cannot be loaded, or the endpoint does not answer as it should.
        """


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return a text up to the first of the stop strings, and whether one is there.

    >>> cut_at("5. Question: 3?", ["Question:"])
    ('5. ', True)
    """
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)
