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
from typing import Any, Literal, get_args

from rm_workflow.errors import UserError

Row = dict[str, Any]
# None is a row that cannot be scored.
Rewards = list[float | None]
Score = Callable[[Sequence[Row]], Rewards]
Unscorable = Literal["none", "lowest", "refuse"]

# Of one request; a server that takes fewer (``--max-candidates``, ``--max-megabytes``) is asked for half as many.
ROWS_AT_ONCE = 256
TOO_MANY, ROWS_REFUSED = 413, 422
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
PASSING = (503, 504)
# The server gives up after a minute of its own accord (``--timeout``).
ANSWER_SECONDS = 90.0


class RewardFunction:
    """The reward of completions, in the form in which TRL calls reward functions.

    Args:
        score: returns one reward for each row of prompt and response, None where a row cannot be scored.
        name: under which the trainer logs it.
        unscorable: what a completion gets that cannot be scored, as one longer than the reward model's token recipe
            allows, one that holds a special token or an empty one. "none" is None: TRL's GRPOTrainer leaves it out of
            its group's mean and gives it advantage 0, so that it teaches nothing; where another reward function scores
            it, that one counts. "lowest" is the lowest reward among the others of the call, None if there is none: the
            policy learns to avoid it. "refuse" raises, which ends the training.

    Raises:
        UserError: ``unscorable`` is none of these.
    """

    def __init__(self, score: Score, name: str = "reward_model", unscorable: Unscorable = "none") -> None:
        if unscorable not in get_args(Unscorable):
            known = ", ".join(get_args(Unscorable))
            raise UserError(f"RewardFunction: unscorable is {unscorable!r}; take one of {known}")
        self._score, self._unscorable = score, unscorable
        self.__name__ = name

    @classmethod
    def of_server(
        cls,
        url: str,
        token: str | None = None,
        patience: float = 60.0,
        name: str = "reward_model",
        unscorable: Unscorable = "none",
    ) -> "RewardFunction":
        """Ask a running ``rmw serve``.

        Args:
            url: where it listens, as ``http://127.0.0.1:8420``.
            patience: seconds in which it is asked again while it is overloaded or being started again.
        """
        return cls(RewardClient(url, token, patience, refuse=unscorable == "refuse").score, name, unscorable)

    @classmethod
    def of_checkpoint(
        cls,
        folder: str | Path,
        device: str = "cpu",
        precision: str = "fp32",
        name: str = "reward_model",
        unscorable: Unscorable = "none",
    ) -> "RewardFunction":
        """Load a checkpoint into this process.

        Args:
            folder: with a saved reward model, as the ``model`` folder of a checkpoint.
        """
        from rm_workflow.evaluation.row_verbs import problems_told, read_conversation, read_each
        from rm_workflow.evaluation.scorer import Scorer
        from rm_workflow.evaluation.steps import aggregate

        scorer = Scorer.load(Path(folder), device, precision)

        def score(rows: Sequence[Row]) -> Rewards:
            conversations, problems = read_each(rows, read_conversation)
            if problems and unscorable == "refuse":
                raise UserError(f"completions: {problems_told(problems)}")
            if unscorable == "refuse":
                return [float(reward) for reward in scorer.score_texts(conversations)[0]]
            prepared = iter([row if not row.problem else None for row in scorer.prepare(conversations)])
            read = [None if place in problems else next(prepared) for place in range(len(rows))]
            fit = [row for row in read if row]
            scores = iter(scorer.score_reads([row.input_ids for row in fit], [row.reads for row in fit]))
            return [aggregate(next(scores)) if row else None for row in read]

        return cls(score, name, unscorable)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> Rewards:
        """Return the reward of each completion.

        Args:
            prompts: texts, or lists of messages.
            completions: texts, or lists of one assistant message, as TRL gives them for prompts of messages.

        Raises:
            UserError: the server cannot be reached, or a completion cannot be scored and ``unscorable`` is "refuse".
        """
        rewards = self._score(
            [{"prompt": prompt, "response": _text(reply)} for prompt, reply in zip(prompts, completions, strict=True)]
        )
        if self._unscorable == "lowest":
            lowest = min((reward for reward in rewards if reward is not None), default=None)
            return [lowest if reward is None else reward for reward in rewards]
        return rewards


class ServerRefusedError(UserError):
    """A request that a server will not answer, however often it is asked.

    Attributes:
        rows: places in the request that the server names as the reason, empty where there are none.
    """

    def __init__(self, sentence: str, status: int, rows: Sequence[int]) -> None:
        super().__init__(sentence)
        self.status, self.rows = status, rows


class RewardClient:
    """A client of ``rmw serve``.

    Args:
        refuse: a row that cannot be scored is an error; else its reward is None.
    """

    def __init__(self, url: str, token: str | None = None, patience: float = 60.0, refuse: bool = True) -> None:
        self._url, self._patience, self._refuse = url.rstrip("/"), patience, refuse
        self._at_once = ROWS_AT_ONCE
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def score(self, rows: Sequence[Row]) -> Rewards:
        """Return the reward of each row, ``messages`` or ``prompt`` and ``response``, in their order.

        Raises:
            UserError: the server's sentence, or that it cannot be reached.
        """
        scores: Rewards = []
        while len(scores) < len(rows):
            some = list(rows[len(scores) : len(scores) + self._at_once])
            try:
                scores += self._score_some(some)
            except ServerRefusedError as refused:
                if refused.status != TOO_MANY or len(some) == 1:
                    raise
                self._at_once = max(1, len(some) // 2)
        return scores

    def _score_some(self, rows: list[Row]) -> Rewards:
        """Return rewards of what one request takes; rows that the server names as bad are left out of another one."""
        left = list(range(len(rows)))
        while left:
            try:
                scores = self._ask("/score", [rows[place] for place in left])["scores"]
            except ServerRefusedError as refused:
                if self._refuse or refused.status != ROWS_REFUSED or not refused.rows:
                    raise
                bad = {left[row] for row in refused.rows}
                left = [place for place in left if place not in bad]
            else:
                found = dict(zip(left, scores, strict=True))
                return [found.get(place) for place in range(len(rows))]
        return [None] * len(rows)

    def _ask(self, path: str, body: Any) -> dict[str, Any]:
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), self._headers)
        deadline, wait = time.monotonic() + self._patience, FIRST_WAIT
        while True:
            try:
                with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                    body = answer.read()
                return _scored(body, self._url)
            except urllib.error.HTTPError as error:
                (problem, bad), passes = _refusal(error), error.code in PASSING
                if not passes:
                    raise ServerRefusedError(f"reward server {self._url}: {problem}", error.code, bad) from None
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


def _refusal(error: urllib.error.HTTPError) -> tuple[str, list[int]]:
    """Return the server's sentence, and the rows that it names."""
    try:
        answer = json.load(error)
        return str(answer["detail"]), [int(row) for row in answer.get("rows") or []]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"it answers {error.code} {error.reason}", []


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    return "".join(str(message["content"]) for message in completion)
