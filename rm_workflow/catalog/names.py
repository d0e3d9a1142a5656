"""Look-ups by name: what a person most likely meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the second half of a "not found" sentence, for brackets: ``did you mean 'quickstart'?``.

    Asked in this order: initials (``lr`` for ``learning_rate``), a similar spelling, a beginning. ``-`` and ``_`` count
    as the same, and so does the case. Where no name is near, all names are listed.
    """
    known = sorted(names)
    if not known:
        return "none is known"
    plain = {_plain(candidate): candidate for candidate in known}
    asked = _plain(name)
    found = [
        *(candidate for candidate in plain if len(asked) > 1 and _initials(candidate) == asked),
        *difflib.get_close_matches(asked, plain, n=1),
        *(candidate for candidate in plain if asked and candidate.startswith(asked)),
    ]
    return f"did you mean '{plain[found[0]]}'?" if found else f"known: {', '.join(known)}"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))
