"""Requests that are answered with a sentence instead of scores: ``{"detail": "responses[3]: ..."}``."""

from collections.abc import Mapping


class RefusedError(Exception):
    """A request that is not scored.

    Attributes:
        status: 4xx for what the client can mend, 503 and 504 for what passes, 500 for a fault of the model.
        sentence: names the field and the mend.
        headers: of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})
