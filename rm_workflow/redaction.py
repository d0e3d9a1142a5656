"""Secrets out of everything that is printed, logged or recorded.

A secret is the value of an environment variable that is named like one, a token of the Hugging Face hub, of GitHub or
of a model's provider by its form, what follows ``Bearer``, the user and password in an address, and a parameter of an
address that is named like a secret. One of any other form that stands in no variable cannot be known.

Each character is read a bounded number of times: a row may hold millions of what looks like the beginning of a secret.
"""

import os
import re
import traceback
from collections.abc import Iterator

SECRET_VARIABLE = re.compile(r"(?i)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_?KEY|CREDENTIALS?)$")
# A shorter value could stand anywhere.
SHORTEST = 8
SECRET_FORMS = re.compile(r"\b(?:(?:hf|gh[opsru])_[A-Za-z0-9]{16,}|github_pat_\w{16,}|sk-[\w-]{16,})", re.ASCII)
# A plain word after it is no secret: "Bearer authentication".
BEARER = re.compile(r"\b([Bb]earer\s++)(?![a-z]++(?:[^\w.~+/=-]|$))[\w.~+/=-]{8,}", re.ASCII)
PARAMETER = re.compile(
    r"(?i)(?<=[?&])((?:[\w.-]*(?:token|signature|secret|passw(?:or)?d|(?:api|access)[_-]?key|credential)|sig)=)"
    r"[^\s&#\"'<>]++"
)
# User and password, or a token in their place, and the host; a port before a path is no password. Nothing is given back
# (``++``), and what follows one ``://`` holds all that follows until the next space.
ADDRESS = re.compile(r"(?<=://)[^\s/@:]*+(?::(?!\d+/)[^\s@]++)?(?:@[^\s@/]*+)*+")
BEFORE_HOST = re.compile(r"(?s).+(?=@[\w\[])")
MASK = "***"


def redact(text: str) -> str:
    """Return a text with every secret replaced by ``***``."""
    for secret in _secrets():
        text = text.replace(secret, MASK)
    text = SECRET_FORMS.sub(MASK, text)
    for pattern in (BEARER, PARAMETER):
        text = pattern.sub(rf"\1{MASK}", text)
    return ADDRESS.sub(_without_user, text)


def holds_secret(error: BaseException) -> bool:
    """Return whether a secret stands in an error, in one of its causes or in a line of their traceback."""
    text = "".join(traceback.format_exception(error))
    return redact(text) != text


def _without_user(address: re.Match[str]) -> str:
    user = BEFORE_HOST.match(address[0])
    return MASK + address[0][user.end() :] if user else address[0]


def _secrets() -> Iterator[str]:
    """Yield the secrets of the environment, longer ones first, as one may hold another."""
    values = {value for name, value in os.environ.items() if SECRET_VARIABLE.search(name) and len(value) >= SHORTEST}
    yield from sorted(values, key=len, reverse=True)
