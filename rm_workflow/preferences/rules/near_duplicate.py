"""Drop a pair that says almost the same as another: prompt, chosen and rejected text each at least ``threshold`` alike.

Two texts are as alike as the Jaccard similarity of their shingles (runs of ``shingle_words`` words, normalised as keys
are; a shorter text is one shingle). ``of: prompt`` compares prompts alone and drops all pairs of a prompt that is close
to another. Pairs are tried in the order of content_id(["near_duplicate", seed, pair_key]) (of a prompt: prompt_id), and
one that is close to a pair that stayed before is dropped; ``detail`` is that pair's pair_id. The opposite label is no
duplicate, and exact repeats of one pair are ``exact_duplicate``'s: they stay or go together.

near_duplicate: {threshold: 0.8}

    keeps   "Name three rivers of Spain and tell where each one ends."
    drops   "name three rivers of Spain, and tell where each one ends." with the same responses

Pairs are found by MinHash (Broder 1997; sketches of rensa) and bands of sketches, and every hit is verified on the
shingles themselves, so that none is false. What bands can miss: their number is chosen so that a pair right at the
threshold is met with a probability of at least 0.995 where the sketches can (``permutations`` 128, threshold 0.8:
0.999 999 for pairs, 0.9999 for prompts); the recall against all pairs is measured in the tests.
Held in memory: 4 bytes a permutation for each text, and ids; the shingles lie in a file in the scratch folder.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import IO, Annotated, Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.rules import RuleParameters
from rm_workflow.preferences.sql import keyed_hash_sql

NEEDS_SCORES = False

RECALL_AT_THRESHOLD = 0.995
# A pair whose sketches are so much less alike than the threshold is not verified: 4 standard deviations at 0.8 of 128.
SKETCH_DEVIATIONS = 4.0
TEXTS_AT_ONCE = 2_000
SKETCH_SEED = 1
# Stands for the words that a text shorter than one shingle lacks; no word has white space.
NO_WORD = " "

Rows = npt.NDArray[np.int64]
Sketches = npt.NDArray[np.uint32]
Shingles = npt.NDArray[np.uint64]


class Parameters(RuleParameters):
    """How alike is too alike, on what, and how finely it is sketched."""

    threshold: Annotated[float, Field(ge=0.5, le=1, description="a number from 0.5 to 1")] = 0.8
    of: Annotated[Literal["pair", "prompt"], Field(description="pair or prompt")] = "pair"
    shingle_words: Annotated[int, Field(ge=1, le=20, description="a whole number from 1 to 20")] = 3
    permutations: Annotated[int, Field(ge=16, le=1024, description="a whole number from 16 to 1024")] = 128
    seed: Annotated[int, Field(ge=0, description="a whole number from 0")] = 0


# What is compared: an item and the texts that it is made of, in the order in which items are tried. The pair that an
# item is named by is its first by pair_id.
ITEMS = {
    "pair": """
        select min(pair_id) as name, pair_key as item, any_value(prompt_id) as prompt_id,
            any_value(chosen_id) as chosen_id, any_value(rejected_id) as rejected_id
        from candidates
        group by pair_key
    """,
    "prompt": "select min(pair_id) as name, prompt_id as item, prompt_id from candidates group by prompt_id",
}
TEXT_COLUMNS = {"pair": ("prompt_id", "chosen_id", "rejected_id"), "prompt": ("prompt_id",)}
ITEM_COLUMN = {"pair": "pair_key", "prompt": "prompt_id"}
TEXTS = {
    "prompt": """
        select prompt_id as id, array_to_string([message.content for message in messages], ' ') as text
        from prompts
        where prompt_id in (select prompt_id from candidates)
    """,
    "pair": """
        select response_id as id, text
        from responses
        where response_id in (select chosen_id from candidates union select rejected_id from candidates)
    """,
}


@dataclass(frozen=True)
class Texts:
    """Sketches and shingles of all texts that are compared.

    Attributes:
        sketches: [texts, permutations].
        starts: [texts + 1] where the shingles of each text begin in ``shingles``.
        shingles: hashes, one after another, in a file.
    """

    sketches: Sketches
    starts: Rows
    shingles: Shingles

    def estimate(self, text: int, others: Rows) -> npt.NDArray[np.float64]:
        """Return [others] the similarity of a text to each of others as the sketches tell it."""
        alike: npt.NDArray[np.float64] = (self.sketches[others] == self.sketches[text]).mean(axis=1)
        return alike

    def similarity(self, one: int, other: int) -> float:
        """Return the exact Jaccard similarity of two texts."""
        if one == other:
            return 1.0
        first, second = self._set(one), self._set(other)
        common = len(np.intersect1d(first, second, assume_unique=True))
        return common / (len(first) + len(second) - common)

    def _set(self, text: int) -> Shingles:
        return np.unique(self.shingles[self.starts[text] : self.starts[text + 1]])


def prepare(con: duckdb.DuckDBPyConnection, parameters: Parameters) -> None:
    """Create ``near_duplicates`` (item, twin): each item to drop and the pair_id of the one that it is close to."""
    con.execute("create or replace temp table near_duplicates (item varchar, twin varchar)")
    [(scratch,)] = con.execute("select current_setting('temp_directory')").fetchall()
    with tempfile.TemporaryFile(dir=scratch) as file:
        texts = _read_texts(con, parameters, file)
        names, items, parts = _read_items(con, parameters)
        close = _close_to_kept(texts, parts, parameters)
    if close:
        found = pa.table({"item": [items[one] for one in close], "twin": [names[other] for other in close.values()]})
        con.register("arrow_near_duplicates", found)
        con.execute("insert into near_duplicates from arrow_near_duplicates")
        con.unregister("arrow_near_duplicates")


def sql(parameters: Parameters) -> str:
    """Select the candidates that ``prepare`` found to be close to another."""
    what = "pair" if parameters.of == "pair" else "prompt"
    return f"""
        -- near_duplicate: no {what} stays that is as alike as {parameters.threshold:g} to one that stays
        select pair_id, 'almost the same {what} stays (similarity of at least {parameters.threshold:g})' as reason,
            twin as detail
        from candidates join near_duplicates on near_duplicates.item = candidates.{ITEM_COLUMN[parameters.of]}
    """


def _read_texts(con: duckdb.DuckDBPyConnection, parameters: Parameters, file: IO[bytes]) -> Texts:
    """Sketch every text once, a batch at a time, and create ``text_rows`` (id, text_row)."""
    from rensa import RMinHash

    queries = [TEXTS["prompt"], *([TEXTS["pair"]] if parameters.of == "pair" else [])]
    ids: list[pa.Array] = []
    lengths: list[Rows] = []
    sketches: list[Sketches] = []
    for batch in chain.from_iterable(_batches(con, query) for query in queries):
        shingles, numbers = _shingles(batch["text"].to_pylist(), parameters.shingle_words)
        offsets = np.concatenate([[0], np.cumsum(numbers)]).astype(np.uint64)
        digests = RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets, parameters.permutations, SKETCH_SEED)
        sketches.append(np.asarray(digests.to_rows(), dtype=np.uint32))
        file.write(shingles.tobytes())
        lengths.append(numbers)
        ids.append(batch["id"])
    file.flush()
    rows = pa.table({"id": pa.chunked_array(ids, pa.string()), "text_row": np.arange(sum(map(len, ids)))})
    con.register("arrow_rows", rows)
    con.execute("create or replace temp table text_rows as from arrow_rows")
    con.unregister("arrow_rows")
    starts = np.concatenate([[0], *map(np.asarray, lengths)]).cumsum().astype(np.int64)
    held = np.memmap(file, dtype=np.uint64, mode="r") if starts[-1] else np.empty(0, np.uint64)
    empty = np.empty((0, parameters.permutations), np.uint32)
    return Texts(np.concatenate([empty, *sketches]), starts, held)


def _batches(con: duckdb.DuckDBPyConnection, query: str) -> Iterator[Any]:
    yield from con.sql(query).to_arrow_reader(TEXTS_AT_ONCE)


def _shingles(texts: Sequence[str], words_each: int) -> tuple[Shingles, Rows]:
    """Return the shingle hashes of texts, one after another, and the number of each text."""
    from rensa import RMinHash

    words = [normalise(text).split() for text in texts]
    words = [[*some, *[NO_WORD] * (words_each - len(some))] for some in words]
    numbers = np.fromiter(map(len, words), np.int64, len(words))
    hashes = np.fromiter(
        chain.from_iterable(RMinHash.hash_token_sets(words)), dtype=np.uint64, count=int(numbers.sum())
    )
    # A polynomial of the words' own 64-bit hashes: other words or another order give another number.
    count = max(len(hashes) - words_each + 1, 0)
    combined = np.zeros(count, dtype=np.uint64)
    for place in range(words_each):
        combined = combined * np.uint64(0x9E3779B97F4A7C15) + hashes[place : place + count]
    inside = np.ones(len(hashes), dtype=np.bool_)
    # The last words of a text begin no shingle.
    inside[(np.cumsum(numbers)[:, None] - np.arange(1, words_each)).ravel()] = False
    return combined[inside[:count]], numbers - words_each + 1


def _read_items(con: duckdb.DuckDBPyConnection, parameters: Parameters) -> tuple[list[str], list[str], Rows]:
    """Return names, items and [items, texts of one] text rows, in the order in which items are tried."""
    columns = TEXT_COLUMNS[parameters.of]
    joins = " ".join(f"join text_rows r{place} on r{place}.id = {column}" for place, column in enumerate(columns))
    found = con.sql(
        f"""
        -- items in the order of their keyed hash
        with items as ({ITEMS[parameters.of]})
        select name, item, {", ".join(f"r{place}.text_row as t{place}" for place in range(len(columns)))}
        from items {joins}
        order by {keyed_hash_sql("near_duplicate", parameters.seed, "item")}, item
        """
    ).to_arrow_table()
    parts = np.stack([found[f"t{place}"].to_numpy() for place in range(len(columns))], axis=1).astype(np.int64)
    return found["name"].to_pylist(), found["item"].to_pylist(), parts


def bands(threshold: float, permutations: int, num_texts: int) -> tuple[int, int]:
    """Return (number of bands, permutations of each text in a band).

    Two items whose ``num_texts`` texts are each alike by s share a band with probability 1 - (1 - s^(texts r))^b. Of
    the widest bands that meet an item at the threshold with ``RECALL_AT_THRESHOLD`` the false hits are the fewest.
    """
    for width in range(permutations, 1, -1):
        number = permutations // width
        if 1 - (1 - threshold ** (num_texts * width)) ** number >= RECALL_AT_THRESHOLD:
            return number, width
    return permutations, 1


def _close_to_kept(texts: Texts, parts: Rows, parameters: Parameters) -> dict[int, int]:
    """Return dropped item -> kept item that it is close to."""
    buckets_of = _shared_buckets(texts, parts, parameters)
    kept_in: dict[int, list[int]] = {}
    close: dict[int, int] = {}
    for item in sorted(buckets_of):
        buckets = buckets_of[item]
        met = sorted({other for bucket in buckets for other in kept_in.get(bucket, ())})
        twin = _first_close(texts, parts, item, np.asarray(met, dtype=np.int64), parameters) if met else None
        if twin is not None:
            close[item] = twin
            continue
        for bucket in buckets:
            kept_in.setdefault(bucket, []).append(item)
    return close


def _shared_buckets(texts: Texts, parts: Rows, parameters: Parameters) -> dict[int, list[int]]:
    """Return item -> numbers of the buckets that it shares with others; items alone in all of theirs are left out."""
    number, width = bands(parameters.threshold, parameters.permutations, parts.shape[1])
    shared: dict[int, list[int]] = {}
    buckets = 0
    for band in range(number):
        of_texts = _mixed(texts.sketches[:, band * width : (band + 1) * width])
        of_items = np.zeros(len(parts), dtype=np.uint64)
        for place in range(parts.shape[1]):
            of_items = of_items * np.uint64(0x9E3779B97F4A7C15) + of_texts[parts[:, place]]
        _, bucket, sizes = np.unique(of_items, return_inverse=True, return_counts=True)
        for item in np.flatnonzero(sizes[bucket] > 1):
            shared.setdefault(int(item), []).append(buckets + int(bucket[item]))
        buckets += len(sizes)
    return shared


def _mixed(columns: Sketches) -> npt.NDArray[np.uint64]:
    mixed = np.zeros(len(columns), dtype=np.uint64)
    for column in columns.T:
        mixed = (mixed ^ column) * np.uint64(0xD6E8FEB86659FD93)
        mixed ^= mixed >> np.uint64(32)
    return mixed


def _first_close(texts: Texts, parts: Rows, item: int, others: Rows, parameters: Parameters) -> int | None:
    """Return the first of ``others`` whose texts are each as alike to the item's as the threshold, or None."""
    deviation = (parameters.threshold * (1 - parameters.threshold) / parameters.permutations) ** 0.5
    likely = np.ones(len(others), dtype=np.bool_)
    for place in range(parts.shape[1]):
        alike = texts.estimate(int(parts[item, place]), parts[others, place])
        likely &= alike >= parameters.threshold - SKETCH_DEVIATIONS * deviation
    for other in others[likely]:
        pairs = zip(parts[item], parts[other], strict=True)
        if all(texts.similarity(int(one), int(two)) >= parameters.threshold for one, two in pairs):
            return int(other)
    return None
