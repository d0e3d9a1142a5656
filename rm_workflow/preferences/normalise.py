"""The form in which texts are compared; used inside keys only, the text itself is stored verbatim."""

import unicodedata


def normalise(text: str) -> str:
    """Return ``text`` in Unicode NFKC, case folded, with every run of white space as one space, stripped.

    "Ａ  b\\n" and "a B" have the same normalised text.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
