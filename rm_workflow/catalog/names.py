"""Look-ups by name: what a person most likely meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the second half of a "not found" sentence, for brackets: ``did you mean 'quickstart'?``.

    Where no name is near, all names are listed; ``-`` and ``_`` count as the same, and so does the case.
    """
    known = sorted(names)
    if not known:
        return "none is known"
    by_plain_form = {_plain(candidate): candidate for candidate in known}
    close = difflib.get_close_matches(_plain(name), by_plain_form, n=1)
    if close:
        return f"did you mean '{by_plain_form[close[0]]}'?"
    return f"known: {', '.join(known)}"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
