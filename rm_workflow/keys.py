"""Content ids: the same value has the same id on every machine and in every process."""

import hashlib
import json
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

ID_DIGITS = 32
# Made once: json.dumps makes a new encoder for each call that asks for other than its defaults.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return JSON in UTF-8 text with sorted keys and no spaces, the form that every id is taken over."""
    return _ENCODER.encode(value)


def content_id(value: Any) -> str:
    """Return the first 32 lower-case hex digits of sha256 over the canonical JSON of ``value``.

    Lone surrogates, which JSON text may hold and UTF-8 may not, are hashed as their own three bytes.
    """
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()[:ID_DIGITS]


def texts_id(*texts: str) -> str:
    """Return ``content_id`` of a list of texts, faster: one is taken for each response that is read."""
    encoded = f"[{','.join(map(encode_basestring, texts))}]"
    return hashlib.sha256(encoded.encode("utf-8", "surrogatepass")).hexdigest()[:ID_DIGITS]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
