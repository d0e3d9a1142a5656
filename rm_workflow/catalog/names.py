"""Look-ups by name: what a person most likely meant."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

# So many names a sentence lists; of more it names the least unlike ones.
FEW, SHOWN = 12, 6


def nearest(name: str, names: Iterable[str], listed_by: str = "") -> str:
    """Return the second half of a "not found" sentence, for brackets: ``did you mean 'quickstart'?``.

    Asked in this order: initials (``lr`` for ``learning_rate``), a similar spelling, a beginning. ``-`` and ``_`` count
    as the same, and so does the case. Where no name is near, all names are listed, or of many the least unlike ones.

    Args:
        listed_by: the command that lists all, told where they are too many.
    """
    known = sorted(names)
    if not known:
        return "none is known"
    plain = {_plain(candidate): candidate for candidate in known}
    asked = _plain(name)
    found = [
        *(candidate for candidate in plain if len(asked) > 1 and _initials(candidate) == asked),
        *get_close_matches(asked, plain, n=1),
        *(candidate for candidate in plain if asked and candidate.startswith(asked)),
    ]
    if found:
        return f"did you mean '{plain[found[0]]}'?"
    if len(known) <= FEW:
        return f"known: {', '.join(known)}"
    alike = sorted(plain, key=lambda candidate: (-SequenceMatcher(None, asked, candidate).ratio(), candidate))
    told = f"; {listed_by} lists all" if listed_by else ""
    return f"of {len(known)} known the nearest: {', '.join(sorted(plain[one] for one in alike[:SHOWN]))}{told}"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))
