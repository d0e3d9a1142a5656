"""The HTTP application: ``/score``, ``/rank``, ``/get_reward`` (OpenRLHF), ``/health``, ``/metrics``, ``/docs``.

Bodies are read as rows of a file are (``evaluation/row_verbs.py``), so that a wrong field is told in the same words.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, WithJsonSchema
from starlette.exceptions import HTTPException

from rm_workflow.errors import UserError
from rm_workflow.evaluation.items import FieldError, shown
from rm_workflow.evaluation.row_verbs import RANK, SCORE, Asked, RepliesError, best_of, problems_told, read_each
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.evaluation.steps import AGGREGATOR
from rm_workflow.preferences.files import refuse_constant, unique_keys
from rm_workflow.serving.gate import HEALTH, Gate
from rm_workflow.serving.limits import Limits
from rm_workflow.serving.metrics import Metrics
from rm_workflow.serving.openrlhf import RenderedTexts
from rm_workflow.serving.refusals import RefusedError
from rm_workflow.serving.scoring_thread import Job, QueueFullError, RowRefusedError, Scored, ScoringThread

TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}
MESSAGE = {
    "type": "object",
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": TEXT},
    "required": ["role", "content"],
}
MESSAGES = {"type": "array", "items": MESSAGE, "minItems": 1}
PROMPT = {"anyOf": [TEXT, MESSAGES]}
ROW = {
    "anyOf": [
        {"type": "object", "properties": {"messages": MESSAGES}, "required": ["messages"]},
        {"type": "object", "properties": {"prompt": PROMPT, "response": TEXT}, "required": ["prompt", "response"]},
    ]
}
CANDIDATES = {
    "type": "object",
    "properties": {"prompt": PROMPT, "responses": TEXTS},
    "required": ["prompt", "responses"],
}
OPENRLHF = {
    "type": "object",
    "properties": {"query": TEXTS, "prompts": TEXTS, "labels": {"type": "array"}},
    "required": ["query", "prompts"],
}
TALK = {"prompt": "Name a river.", "response": "The Danube."}

Rows = Annotated[
    Any,
    WithJsonSchema({"anyOf": [ROW, {"type": "array", "items": ROW, "minItems": 1}]}),
    Body(
        examples=[
            TALK,
            [TALK, {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}],
        ]
    ),
]
RankBody = Annotated[
    Any, WithJsonSchema(CANDIDATES), Body(examples=[{"prompt": "Name a river.", "responses": ["The Danube.", "No."]}])
]
OpenRlhfBody = Annotated[
    Any,
    WithJsonSchema(OPENRLHF),
    Body(examples=[{"query": ["Name a river. The Danube."], "prompts": ["Name a river."], "labels": [None]}]),
]


class Scores(BaseModel):
    """Answer of ``/score``: one reward a row; of a model that scores steps, its steps too."""

    scores: list[float]
    step_scores: list[list[float]] | None = None
    truncated: int


class Ranked(BaseModel):
    """Answer of ``/rank``: one reward a response, the index of the best, and all indices, best first; and of steps."""

    scores: list[float]
    step_scores: list[list[float]] | None = None
    best: int
    order: list[int]
    truncated: int


class Rewards(BaseModel):
    """Answer of ``/get_reward``."""

    rewards: list[float]
    scores: list[float]


class Health(BaseModel):
    """Answer of ``/health``; ``on_disk`` is false where the checkpoint's files went, the model is in memory."""

    status: str
    checkpoint: str
    on_disk: bool
    waiting: int
    seconds_up: float


class Refusal(BaseModel):
    """Every other answer."""

    detail: str
    rows: list[int] | None = None


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal} for status in (400, 401, 408, 413, 415, 422, 500, 503, 504)
}


@dataclass(frozen=True)
class Served:
    """A model that is served.

    Attributes:
        label: what the checkpoint is called.
        folder: where it was read from.
        aggregator: what makes one score of those of the steps.
    """

    scorer: Scorer
    label: str
    folder: Path
    aggregator: str = AGGREGATOR
    limits: Limits = field(default_factory=Limits)
    token: str | None = None


class StrictRequest(Request):
    """A request whose JSON is read as the rows of a file are: no NaN or Infinity, no key twice in one object."""

    async def json(self) -> Any:
        """Return the body.

        Raises:
            RefusedError: it is JSON for Python alone, or one of two values would be lost without a word.
        """
        try:
            return json.loads(await self.body(), parse_constant=refuse_constant, object_pairs_hook=unique_keys)
        except (json.JSONDecodeError, RecursionError):
            raise
        except ValueError as error:
            raise RefusedError(400, f"the body is no JSON ({error}); mend it") from None


class StrictRoute(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def answer_strictly(request: Request) -> Response:
            return await answer(StrictRequest(request.scope, request.receive))

        return answer_strictly


def make_app(served: Served) -> Gate:
    """Return the ASGI application; its scoring thread runs as long as the application does.

    Raises:
        UserError: the checkpoint came without a token recipe, so no text can be scored.
    """
    metrics, started = Metrics(), time.monotonic()
    texts = RenderedTexts(served.scorer.encoder)
    threads: list[ScoringThread] = []

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        threads.append(ScoringThread(served.scorer, served.limits.waiting, metrics.count_batch, served.aggregator))
        metrics.watch_waiting(lambda: threads[0].num_waiting)
        yield
        await asyncio.to_thread(threads[0].close)

    app = FastAPI(
        title="rmw serve",
        description=f"Rewards of {served.label}. A refused request is answered with one sentence in `detail`.",
        version="1",
        lifespan=life,
        redoc_url=None,
        responses=REFUSALS,
        dependencies=[Security(HTTPBearer(auto_error=False))] if served.token else [],
    )
    app.router.route_class = StrictRoute
    _tell_refusals(app)

    async def scores_of(job: Job, named: str | None) -> Scored:
        return await _scores_of(threads[0], job, served.limits, named)

    @app.post("/score", response_model_exclude_none=True)
    async def score(body: Rows) -> Scores:
        """Return the reward of each row: ``messages``, or ``prompt`` and ``response``; one row or a list of rows."""
        rows = body if isinstance(body, list) else [_object(body)]
        _check_count(len(rows), "the list", served.limits)
        named = "" if isinstance(body, list) else None
        asked, problems = read_each(rows, _read)
        if problems:
            raise _rows_refused(problems, named)
        scored = await scores_of(Job(asked), named)
        return Scores(scores=scored.scores, step_scores=scored.step_scores, truncated=scored.num_truncated)

    @app.post("/rank", response_model_exclude_none=True)
    async def rank(body: RankBody) -> Ranked:
        """Return the reward of each of ``responses`` to one ``prompt``, and which is best; equal ones as they come."""
        row = _object(body)
        if isinstance(row.get("responses"), list):
            _check_count(len(row["responses"]), "field responses", served.limits)
        with _fields_told():
            asked = RANK.read(row)
        scored = await scores_of(Job(asked), "responses")
        order = sorted(range(len(scored.scores)), key=lambda index: -scored.scores[index])
        return Ranked(
            scores=scored.scores,
            step_scores=scored.step_scores,
            best=best_of(scored.scores),
            order=order,
            truncated=scored.num_truncated,
        )

    @app.post("/get_reward")
    async def get_reward(body: OpenRlhfBody) -> Rewards:
        """Return rewards as OpenRLHF's remote reward model does: ``query`` is prompt and reply in one text."""
        row = _object(body)
        if isinstance(row.get("query"), list):
            _check_count(len(row["query"]), "field query", served.limits)
        with _fields_told():
            asked, rendered = texts.read(row)
        scored = await scores_of(Job(asked, rendered), "query")
        return Rewards(rewards=scored.scores, scores=scored.scores)

    @app.get(HEALTH)
    async def health() -> Health:
        """Tell whether requests are scored; needs no token."""
        if not threads[0].is_alive:
            raise RefusedError(503, "the scoring thread has ended; start the server again")
        return Health(
            status="ok",
            checkpoint=served.label,
            on_disk=served.folder.is_dir() and any(served.folder.glob("*.safetensors")),
            waiting=threads[0].num_waiting,
            seconds_up=time.monotonic() - started,
        )

    @app.get("/metrics", response_class=Response)
    async def show_metrics() -> Response:
        """Return counters in Prometheus's text form."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Gate(app, served.limits, served.token, metrics)


async def _scores_of(thread: ScoringThread, job: Job, limits: Limits, named: str | None) -> Scored:
    try:
        thread.submit(job)
        return await asyncio.wait_for(asyncio.wrap_future(job.answer), limits.seconds)
    except QueueFullError:
        raise RefusedError(
            503, f"{limits.waiting:,} conversations wait already; ask again in a moment", {"retry-after": "1"}
        ) from None
    except TimeoutError:
        raise RefusedError(
            504,
            f"it was not scored within {limits.seconds:g} s; send fewer at once, or serve with a longer --timeout",
        ) from None
    except RowRefusedError as refused:
        raise _rows_refused(refused.problems, named) from None
    except UserError as error:
        raise RefusedError(500, str(error)) from None


def _rows_refused(problems: Mapping[int, str], named: str | None) -> RefusedError:
    """Return the refusal of rows that cannot be scored; ``named`` is what the list is called, None of one row."""
    told = problems_told(problems, named) if named is not None else next(iter(problems.values()))
    return RefusedError(422, told, rows=list(problems))


def _check_count(count: int, named: str, limits: Limits) -> None:
    if count == 0:
        raise RefusedError(422, f"{named} is empty; give at least one entry")
    if count > limits.candidates:
        raise RefusedError(
            413,
            f"{named} holds {count:,} entries, and one request may hold {limits.candidates:,}; send several requests",
        )


def _object(body: Any) -> dict[str, Any]:
    if isinstance(body, str | bytes):
        raise RefusedError(415, "the body must be JSON with the header Content-Type: application/json")
    if not isinstance(body, dict):
        raise RefusedError(422, f"the body is {shown(body)}; it must be a JSON object")
    return body


def _read(row: Any) -> Asked:
    if not isinstance(row, dict):
        raise FieldError(f"it is {shown(row)}; it must be a JSON object")
    (asked,) = SCORE.read(row)
    return asked


@contextmanager
def _fields_told() -> Iterator[None]:
    """Turn the error of a field into a refusal."""
    try:
        yield
    except RepliesError as error:
        raise RefusedError(422, str(error), rows=list(error.problems)) from None
    except FieldError as error:
        raise RefusedError(422, str(error)) from None


def _tell_refusals(app: FastAPI) -> None:
    """Answer what the application and the framework refuse with one sentence."""

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        if problem["type"] == "json_invalid":
            said = problem.get("ctx", {}).get("error", "it cannot be parsed")
            return JSONResponse(
                {"detail": f"the body is no JSON ({said} at character {problem['loc'][-1]}); mend it"}, 400
            )
        return JSONResponse({"detail": "the body is missing; send a JSON object as application/json"}, 422)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, RefusedError):  # the framework's own error around one of StrictRequest
            return JSONResponse(error.__cause__.body(), error.__cause__.status)
        path = request.url.path
        sentences = {
            400: "the body cannot be parsed as JSON; send plain objects and lists",
            404: f"there is no {shown(path)}; GET /docs shows what there is",
            405: f"{path} does not take {request.method}; GET /docs shows what it takes",
        }
        return JSONResponse(
            {"detail": sentences.get(error.status_code, str(error.detail))}, error.status_code, error.headers
        )

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": f"a fault of the server ({type(error).__name__}); its log says more"}, 500)
