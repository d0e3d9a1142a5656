"""Reward functions for trainers: of a running ``rmw serve``, or of a checkpoint in the same process.

TRL's GRPOTrainer calls ``reward(prompts=..., completions=..., **columns)`` and takes a list of floats::

    from rm_workflow.serving.client import RewardFunction

    trainer = GRPOTrainer(model, reward_funcs=RewardFunction.of_server("http://127.0.0.1:8420"), ...)
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rm_workflow.errors import UserError

Row = dict[str, Any]
Score = Callable[[Sequence[Row]], list[float]]

# Of one request; a server takes 1,024 by default.
ROWS_AT_ONCE = 256
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
PASSING = (503, 504)
# The server gives up after a minute of its own accord (``--timeout``).
ANSWER_SECONDS = 90.0


class RewardFunction:
    """The reward of completions, in the form in which TRL calls reward functions.

    Args:
        score: returns one reward for each row of prompt and response.
        name: under which the trainer logs it.
    """

    def __init__(self, score: Score, name: str = "reward_model") -> None:
        self._score = score
        self.__name__ = name

    @classmethod
    def of_server(
        cls, url: str, token: str | None = None, patience: float = 60.0, name: str = "reward_model"
    ) -> "RewardFunction":
        """Ask a running ``rmw serve``.

        Args:
            url: where it listens, as ``http://127.0.0.1:8420``.
            patience: seconds in which it is asked again while it is overloaded or being started again.
        """
        return cls(RewardClient(url, token, patience).score, name)

    @classmethod
    def of_checkpoint(
        cls, folder: str | Path, device: str = "cpu", precision: str = "fp32", name: str = "reward_model"
    ) -> "RewardFunction":
        """Load a checkpoint into this process.

        Args:
            folder: with a saved reward model, as the ``model`` folder of a checkpoint.
        """
        from rm_workflow.evaluation.row_verbs import read_conversation
        from rm_workflow.evaluation.scorer import Scorer

        scorer = Scorer.load(Path(folder), device, precision)

        def score(rows: Sequence[Row]) -> list[float]:
            scores, _ = scorer.score_texts([read_conversation(row) for row in rows])
            return [float(reward) for reward in scores]

        return cls(score, name)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        """Return the reward of each completion.

        Args:
            prompts: texts, or lists of messages.
            completions: texts, or lists of one assistant message, as TRL gives them for prompts of messages.

        Raises:
            UserError: the server cannot be reached, or a completion cannot be scored.
        """
        return self._score(
            [{"prompt": prompt, "response": _text(reply)} for prompt, reply in zip(prompts, completions, strict=True)]
        )


class RewardClient:
    """A client of ``rmw serve``."""

    def __init__(self, url: str, token: str | None = None, patience: float = 60.0) -> None:
        self._url, self._patience = url.rstrip("/"), patience
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def score(self, rows: Sequence[Row]) -> list[float]:
        """Return the reward of each row, ``messages`` or ``prompt`` and ``response``, in their order.

        Raises:
            UserError: the server's sentence, or that it cannot be reached.
        """
        scores: list[float] = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            scores += self._ask("/score", list(rows[start : start + ROWS_AT_ONCE]))["scores"]
        return scores

    def _ask(self, path: str, body: Any) -> dict[str, Any]:
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), self._headers)
        deadline, wait = time.monotonic() + self._patience, FIRST_WAIT
        while True:
            try:
                with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                    body = answer.read()
                return _scored(body, self._url)
            except urllib.error.HTTPError as error:
                problem, passes = _sentence(error), error.code in PASSING
            except http.client.HTTPException as error:
                problem, passes = f"its answer was cut off ({type(error).__name__})", True
            except OSError as error:
                problem, passes = f"it cannot be reached ({getattr(error, 'reason', error)})", True
            if not passes or time.monotonic() + wait > deadline:
                raise UserError(f"reward server {self._url}: {problem}")
            time.sleep(wait)
            wait = min(LONGEST_WAIT, 2 * wait)


def _scored(body: bytes, url: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
        return {"scores": [float(score) for score in answer["scores"]]}
    except (ValueError, KeyError, TypeError):
        shown = f"{body[:80]!r}"
        raise UserError(f"reward server {url}: it is no rmw serve, it answers {shown}; name another address") from None


def _sentence(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"it answers {error.code} {error.reason}"


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    return "".join(str(message["content"]) for message in completion)
