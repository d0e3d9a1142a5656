"""Problems of a small source, a generator that says what it is told to, and a local server of OpenAI's API."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rm_workflow.annotation.generators import Completion
from rm_workflow.annotation.rollouts import Problem, read_problems
from rm_workflow.catalog.models import Annotation
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, write_raw


def annotation(**fields: Any) -> Annotation:
    known = {"problems": "sums", "generator": "model", "trajectories": 2, "completions": 4, "max_tokens": 32}
    return Annotation(**{**known, **fields})


def sum_row(number: int, file: str = "train.jsonl") -> RawRow:
    solution = Shown("reference", f"{number} + 1 = {number + 1}")
    return RawRow(f"{number} + 1?", [solution], number, file, extra={"final_answer": str(number + 1)})


@pytest.fixture
def problems(tmp_path: Path) -> list[Problem]:
    raw = write_raw(tmp_path / "raw", [sum_row(number) for number in range(3)], "sums")
    return read_problems(raw, annotation(), ["train.jsonl"])


@dataclass
class Scripted:
    """A generator whose texts a function of the prompt and the number of the sample decides."""

    say: Callable[[str, int], str]
    asked: list[str] = field(default_factory=list)

    def complete(self, prompts: Sequence[str], num_samples: int, seed: int) -> list[list[Completion]]:
        self.asked += prompts
        return [[Completion(self.say(prompt, n), True) for n in range(num_samples)] for prompt in prompts]


@dataclass
class Server:
    """A local server of ``POST /v1/completions``; ``faults`` are the status codes of its first answers."""

    address: str
    say: Callable[[str, int], str] = lambda prompt, number: f"text {number}"
    faults: list[int] = field(default_factory=list)
    answer: Mapping[str, Any] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code = made.faults.pop(0) if made.faults else 200
            body = json.dumps({"error": "no room" if code != 200 else None})
            if code == 200:
                assert self.path == "/v1/completions"
                made.asked.append(asked)
                made.keys.append(self.headers["Authorization"])
                body = json.dumps(made.answer or {"choices": list(choices(asked))})
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    def choices(asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        # The last choice first, as a server may send them.
        for number in reversed(range(asked["n"])):
            yield {"index": number, "text": made.say(asked["prompt"], number), "finish_reason": "stop"}

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Server(f"http://127.0.0.1:{httpd.server_port}/v1")
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield made
    httpd.shutdown()
    httpd.server_close()
    thread.join()
