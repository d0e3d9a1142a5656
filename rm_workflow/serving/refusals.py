"""Requests that are answered with a sentence instead of scores: ``{"detail": "responses[3]: ..."}``."""

from collections.abc import Mapping, Sequence
from typing import Any


class RefusedError(Exception):
    """A request that is not scored.

    Attributes:
        status: 4xx for what the client can mend, 503 and 504 for what passes, 500 for a fault of the model.
        sentence: names the field and the mend.
        headers: of the answer.
        rows: of a list of rows or responses, the 0-based places of those that cannot be scored, where they are known.
    """

    def __init__(
        self, status: int, sentence: str, headers: Mapping[str, str] | None = None, rows: Sequence[int] = ()
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers, self.rows = status, sentence, dict(headers or {}), list(rows)

    def body(self) -> dict[str, Any]:
        """Return what is answered as JSON."""
        return {"detail": self.sentence, **({"rows": self.rows} if self.rows else {})}
