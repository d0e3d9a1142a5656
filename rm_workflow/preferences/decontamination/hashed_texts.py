"""Texts as tables of hashes: their words, n-grams, wholes and MinHash bands, read some texts at a time.

The targets are read first and whole; of the mixture's texts only what the targets have as well is kept.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import duckdb
import numpy as np

from rm_workflow.catalog.models import Guard, NearDuplicate
from rm_workflow.database import num_threads
from rm_workflow.preferences.decontamination.minhash import bands
from rm_workflow.preferences.decontamination.words import (
    HashedWords,
    HashSet,
    Indices,
    Mask,
    count_words,
    hash_ngrams,
    hash_whole,
    hash_words,
)

# Name of a column -> its values.
Columns: TypeAlias = dict[str, np.ndarray[Any, Any]]
# Name of a table -> its rows, some at a time.
Parts: TypeAlias = dict[str, list[Columns]]

Given = TypeVar("Given")
Made = TypeVar("Made")

TEXTS_AT_ONCE = 500


def read_targets(con: duckdb.DuckDBPyConnection, guard: Guard, min_words: int, turns: bool) -> Parts:
    """Read the texts of the targets.

    Args:
        min_words: shorter turns are compared as wholes only (their n-grams may still be boilerplate), shorter responses
            not at all.
        turns: whether to read what turns alone are compared by: whole texts, words, bands.
    """
    read: Parts = defaultdict(list)
    for docs, texts in batches(con, "select doc, text from target_texts"):
        hashed = hash_words(texts)
        long = hashed.lengths >= min_words
        ngrams = hash_ngrams(hashed, guard.ngram_words)
        if not turns:
            ngrams = ngrams.where(long[ngrams.texts])
        read["lengths"].append({"doc": docs, "num_words": hashed.lengths})
        read["ngrams"].append({"doc": docs[ngrams.texts], "position": ngrams.positions, "ngram": ngrams.hashes})
        if turns:
            read["wholes"].append({"doc": docs, "whole": hash_whole(hashed)})
            read["positions"].append(_positions(docs, hashed, long))
            read["frequencies"].append(_frequencies(hashed))
            read["bands"].append(_bands(docs, hashed, long, guard.near_duplicate))
    return read


def read_mixture(con: duckdb.DuckDBPyConnection, guard: Guard, targets: Parts, turns: bool) -> Parts:
    """Read the texts of the mixture and keep what the targets have as well."""
    known = {name: _known(targets.get(f"{name}s", []), name) for name in ("ngram", "whole", "band")}

    def read_batch(batch: tuple[Indices, list[str]]) -> dict[str, Columns]:
        docs, texts = batch
        hashed = hash_words(texts)
        ngrams = hash_ngrams(hashed, guard.ngram_words, known["ngram"])
        lengths = {"doc": docs, "num_words": hashed.lengths}
        tables: dict[str, Columns] = {
            "lengths": lengths,
            "ngrams": {"doc": docs[ngrams.texts], "ngram": ngrams.hashes},
        }
        if turns:
            banded = _bands(docs, hashed, hashed.lengths >= guard.ngram_words, guard.near_duplicate)
            tables["wholes"] = _where({"doc": docs, "whole": hash_whole(hashed)}, known["whole"], "whole")
            tables["frequencies"] = _frequencies(hashed)
            tables["bands"] = _where(banded, known["band"], "band")
        return tables

    read: Parts = defaultdict(list)
    for tables in _in_threads(read_batch, batches(con, "select doc, text from mixture_texts")):
        for table, columns in tables.items():
            read[table].append(columns)
    return read


def _in_threads(function: Callable[[Given], Made], values: Iterable[Given]) -> Iterator[Made]:
    """Yield the results in order; numpy lets other threads run meanwhile, and few values wait at a time."""
    threads = num_threads()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Made]] = deque()
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def num_rows(parts: Sequence[Columns]) -> int:
    """Return the number of rows of a table."""
    return sum(len(next(iter(part.values()))) for part in parts)


def _known(parts: Sequence[Columns], column: str) -> HashSet:
    return HashSet(np.concatenate([np.zeros(0, dtype=np.uint64), *(part[column] for part in parts)]))


def _where(columns: Columns, known: HashSet, column: str) -> Columns:
    mask = known.holds(columns[column])
    return {name: values[mask] for name, values in columns.items()}


def _positions(docs: Indices, hashed: HashedWords, chosen: Mask) -> Columns:
    """Return the words of the chosen texts with their positions."""
    texts = hashed.texts
    positions = np.arange(len(texts)) - hashed.starts[texts]
    mask = chosen[texts]
    return {"doc": docs[texts[mask]], "position": positions[mask], "word": hashed.hashes[mask]}


def batches(con: duckdb.DuckDBPyConnection, query: str) -> Iterator[tuple[Indices, list[str]]]:
    """Yield numbers and texts, some at a time; at least one batch, which may be empty."""
    found = con.execute(query)
    batch = found.fetchmany(TEXTS_AT_ONCE)
    while True:
        yield np.array([doc for doc, _ in batch], dtype=np.int64), [text for _, text in batch]
        batch = found.fetchmany(TEXTS_AT_ONCE)
        if not batch:
            return


def _frequencies(hashed: HashedWords) -> Columns:
    """Return in how many texts each word stands."""
    _, in_texts, _ = count_words(hashed)
    found, num_texts = np.unique(in_texts, return_counts=True)
    return {"word": found, "num_texts": num_texts}


def _bands(docs: Indices, hashed: HashedWords, chosen: Mask, near_duplicate: NearDuplicate | None) -> Columns:
    """Return the MinHash bands of the chosen texts, a row each."""
    if near_duplicate is None:
        return {"doc": np.zeros(0, dtype=np.int64), "band": np.zeros(0, dtype=np.uint64)}
    found = bands(hashed, np.flatnonzero(chosen), near_duplicate)
    return {"doc": np.repeat(docs[chosen], found.shape[1]), "band": found.ravel()}
