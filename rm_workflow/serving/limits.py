"""What one request may ask for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        megabytes: of the body of a request.
        candidates: conversations of a request.
        seconds: from the last byte of a request to its answer, and for a body to come.
        waiting: conversations of all requests that are not scored yet.
    """

    megabytes: float = 10.0
    candidates: int = 1024
    seconds: float = 60.0
    waiting: int = 4096

    @property
    def max_bytes(self) -> int:
        """Return the largest body."""
        return int(self.megabytes * 1_000_000)
