"""What a server counts, in Prometheus's text form at ``/metrics``."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PATHS = frozenset({"/score", "/rank", "/get_reward", "/health", "/metrics", "/docs", "/openapi.json"})
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("rmw_requests", "Requests", ("path", "status"), registry=self._registry)
        self._seconds = Histogram(
            "rmw_request_seconds", "Time of requests", ("path",), buckets=SECONDS, registry=self._registry
        )
        self._conversations = Counter("rmw_conversations", "Conversations scored", registry=self._registry)
        self._tokens = Counter("rmw_tokens", "Tokens of conversations scored", registry=self._registry)
        self._passes = Counter("rmw_batches", "Batches of conversations scored together", registry=self._registry)
        self._waiting = Gauge("rmw_waiting_conversations", "Conversations not scored yet", registry=self._registry)

    def watch_waiting(self, num_waiting: Callable[[], float]) -> None:
        """Ask for the number of waiting conversations whenever it is shown."""
        self._waiting.set_function(num_waiting)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count one answered request; paths that do not exist are one, so that nobody can make names without end."""
        path = path if path in PATHS else "other"
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_batch(self, num_conversations: int, num_tokens: int) -> None:
        """Count what one forward pass scores."""
        self._passes.inc()
        self._conversations.inc(num_conversations)
        self._tokens.inc(num_tokens)

    def text(self) -> bytes:
        """Return all counters."""
        return generate_latest(self._registry)
