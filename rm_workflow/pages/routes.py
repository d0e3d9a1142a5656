"""The pages as routes of a web server, which puts its guard before them."""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from rm_workflow.errors import UserError
from rm_workflow.pages import addresses, search
from rm_workflow.pages.checkpoints import checkpoint_page, curves, scores_page
from rm_workflow.pages.pairs import item_page, pair_page
from rm_workflow.pages.recipes import recipe_page
from rm_workflow.pages.site import Bar, Link, NotFoundError, Site, numeric_columns, open_site
from rm_workflow.pages.start import start
from rm_workflow.reporting import html_report

if TYPE_CHECKING:
    from jinja2 import Environment

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
LAST_PAGE = 10**9

logger = logging.getLogger("rm_workflow")

Show = Callable[[Site, Request], Mapping[str, Any]]


def routes() -> list[Route]:
    """Return the routes of all pages; each request reads what is published at its time."""
    shown: dict[str, tuple[str, Show]] = {
        "": ("start", lambda site, _: start(site)),
        "/recipes/{name}": ("recipe", lambda site, asked: recipe_page(site, asked.path_params["name"])),
        "/checkpoints/{id}": ("checkpoint", lambda site, asked: checkpoint_page(site, asked.path_params["id"])),
        "/checkpoints/{id}/scores/{benchmark}": ("scores", _scores),
        "/checkpoints/{id}/scores/{benchmark}/{item:path}": ("item", _item),
        "/pairs/{id}": ("pair", lambda site, asked: pair_page(site, asked.path_params["id"])),
        "/search": ("search", _search),
    }
    return [
        Route(f"{addresses.START}/", _endpoint(*shown[""])),
        Route(f"{addresses.START}/look.css", _look),
        Route(f"{addresses.START}/checkpoints/{{id}}/curves.png", _curves),
        *(Route(addresses.START + path, _endpoint(template, show)) for path, (template, show) in shown.items()),
        Route(f"{addresses.START}/{{rest:path}}", _nothing),
    ]


def _scores(site: Site, asked: Request) -> Mapping[str, Any]:
    text = asked.query_params.get("page", "1")
    if not (text.isascii() and text.isdecimal() and len(text) < len(str(LAST_PAGE))):
        raise NotFoundError(f"there is no page {text[:100]!r}; pages are counted from 1")
    return scores_page(site, asked.path_params["id"], asked.path_params["benchmark"], int(text))


def _item(site: Site, asked: Request) -> Mapping[str, Any]:
    return item_page(site, *(asked.path_params[name] for name in ("id", "benchmark", "item")))


def _search(site: Site, asked: Request) -> Mapping[str, Any]:
    found = search.search_page(site, asked.query_params.get("text", ""))
    return {**found, "most_characters": search.MOST_CHARACTERS}


def _endpoint(template: str, show: Show) -> Callable[[Request], Response]:
    """Return what answers one kind of page; Starlette runs it in a thread of its own, so that others need not wait."""

    def endpoint(request: Request) -> Response:
        return _answered(lambda: _page(template, show(open_site(), request)))

    return endpoint


def _answered(answer: Callable[[], Response]) -> Response:
    """Return an answer, or one sentence where there is nothing by that name or something is damaged."""
    try:
        return answer()
    except NotFoundError as error:
        return _refused(404, "Not found", str(error))
    except UserError as error:
        return _refused(422, "Not shown", str(error))
    except Exception:
        logger.exception("a page failed")
        return _refused(500, "Failed", "the page failed; what the terminal of rmw ui shows is the reason")


def _nothing(request: Request) -> Response:
    return _refused(404, "Not found", f"there is no page {request.url.path[:200]!r}; start at {addresses.START}")


def _refused(status: int, title: str, sentence: str) -> Response:
    return _page("refused", {"title": title, "sentence": sentence}, status)


def _page(template: str, context: Mapping[str, Any], status: int = 200) -> Response:
    text = _environment().get_template(f"{template}.html.jinja").render(context)
    # Half a surrogate pair is text of a data set too, and no UTF-8.
    return HTMLResponse(text.encode("utf-8", "backslashreplace"), status, HEADERS)


def _curves(request: Request) -> Response:
    def answer() -> Response:
        return Response(curves(open_site(), request.path_params["id"]), media_type="image/png", headers=HEADERS)

    return _answered(answer)


def _look(request: Request) -> Response:
    own = resources.files(__package__).joinpath("templates/pages.css").read_text("utf-8")
    return Response(f"{html_report.look()}\n{own}", media_type="text/css", headers=HEADERS)


@cache
def _environment() -> "Environment":
    folder = resources.files(__package__).joinpath("templates")
    templates = {file.name: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".jinja")}
    environment = html_report.environment_of(templates)
    environment.globals.update(start=addresses.START, search=addresses.search())
    environment.filters.update(numeric=numeric_columns)
    environment.tests.update(link=lambda value: isinstance(value, Link), bar=lambda value: isinstance(value, Bar))
    return environment
