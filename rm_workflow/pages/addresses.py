"""Where each page stands, as a path on the server that ``rmw ui`` starts."""

from urllib.parse import quote, urlencode

START = "/rmw"


def recipe(name: str) -> str:
    """Return the path of a recipe's data and runs."""
    return f"{START}/recipes/{quote(name, safe='')}"


def checkpoint(artifact: str) -> str:
    """Return the path of a checkpoint (``asset@version``)."""
    return f"{START}/checkpoints/{quote(artifact, safe='@')}"


def curves(artifact: str) -> str:
    """Return the path of the picture of a checkpoint's training curves."""
    return f"{checkpoint(artifact)}/curves.png"


def benchmark(artifact: str, name: str, page: int = 1) -> str:
    """Return the path of the rows behind a checkpoint's score on a benchmark."""
    return f"{checkpoint(artifact)}/scores/{quote(name, safe='')}" + (f"?page={page}" if page > 1 else "")


def item(artifact: str, name: str, item_id: str) -> str:
    """Return the path of one item of a benchmark with the scores that a checkpoint gave it."""
    return f"{benchmark(artifact, name)}/{quote(item_id, safe='')}"


def pair(pair_id: str) -> str:
    """Return the path of a pair."""
    return f"{START}/pairs/{quote(pair_id, safe='')}"


def job(name: str) -> str:
    """Return the path of a job in Dagster, where it is started."""
    return f"/locations/rm_workflow/jobs/{quote(name, safe='')}"


def search(text: str = "") -> str:
    """Return the path of the search for pairs by text."""
    return f"{START}/search" + (f"?{urlencode({'text': text})}" if text else "")
