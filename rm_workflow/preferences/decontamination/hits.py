"""Texts of a mixture that are texts of a benchmark.

Every user turn and every long response of the train pairs is compared with every user turn and long response of the
targets (``targets.py``). Candidates come from hash joins without any limit of hits: on whole texts, on n-grams of words
and on MinHash bands. Each candidate is then judged on its words:

``exact``
    a user turn is, normalised, a user turn of the target, whatever its length.
``ngram``
    shared n-grams cover ``prompt_share`` of a target prompt of ``min_words`` or more, and what differs weighs little.
``near_duplicate``
    the sets of words have the Jaccard similarity ``near_duplicate.threshold``, and what differs weighs little.
``response_ngram``
    shared n-grams cover ``response_share`` of a target response; both have ``min_response_words`` or more.

What differs is the lighter of two: the words that the target has beyond the mixture's text (more where that was cut),
and those that the mixture's text has beyond the target (more where it was added to). A word weighs the logarithm of how
rare it is among all prompts (idf, Spärck Jones 1972), so that a template with other names and numbers is another
question, and one reworded half-sentence is not. ``max_difference`` limits the share of that weight; one changed word is
allowed beyond it. N-grams in many prompts are boilerplate: they are no evidence, and their words are not counted as
shared.
"""

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from rm_workflow.catalog.models import Guard
from rm_workflow.preferences.decontamination.hashed_texts import (
    Columns,
    Parts,
    batches,
    num_rows,
    read_mixture,
    read_targets,
)
from rm_workflow.preferences.decontamination.spans import longest_common_run
from rm_workflow.preferences.decontamination.words import Indices, count_words, hash_ngrams, hash_words, words
from rm_workflow.preferences.normalise import normalise

# idf in whole thousandths: a sum of whole numbers does not depend on their order.
IDF_UNIT = 1000
# One changed word is allowed up to this share of the weight.
ONE_WORD_SHARE = 0.5

# the user turns of train pairs, numbered by text, and one place of each text
MIXTURE_TURNS = """
    create or replace temp table mixture_places as
    with asked as (
        select prompt_id, [message.content for message in messages if message.role = 'user'] as texts
        from prompts where prompt_id in (select prompt_id from train_pairs)
    ),
    turns as (select prompt_id, unnest(range(1, len(texts) + 1)) as turn, unnest(texts) as text from asked)
    select dense_rank() over (order by md5_number(text)) - 1 as doc, prompt_id, turn::integer as turn from turns;

    create or replace temp table mixture_docs as
    select doc, doc as owner, unnest(min({'prompt_id': prompt_id, 'turn': turn})) from mixture_places group by doc;

    create or replace temp view mixture_texts as
    select doc, [message.content for message in messages if message.role = 'user'][turn] as text
    from mixture_docs join prompts using (prompt_id)
"""

# the responses of train pairs that can be long enough
MIXTURE_RESPONSES = """
    create or replace temp table mixture_docs as
    with shown as (select unnest([chosen_id, rejected_id]) as response_id from train_pairs)
    select row_number() over () - 1 as doc, response_id, prompt_id, prompt_id as owner
    from (select response_id, prompt_id from responses where response_id in (select response_id from shown)
        and length(text) >= {least_characters});

    create or replace temp view mixture_texts as select doc, text from mixture_docs join responses using (response_id)
"""

# the texts of the targets, numbered, and their places
TARGETS = """
    create or replace temp table target_places as
    select dense_rank() over (order by text) - 1 as doc, * exclude (text) from {table};

    create or replace temp table target_texts as
    select distinct dense_rank() over (order by text) - 1 as doc, text from {table}
"""

# n-grams that many prompts have, and those that are listed
BOILERPLATE = """
    create or replace temp table boilerplate as
    with in_mixture as (
        select ngram, count(distinct owner) as num_texts
        from mixture_ngrams join mixture_docs using (doc) group by ngram
    ),
    in_targets as (
        select ngram, max(num_items) as num_items from (
            select ngram, place, count(distinct {owner}) as num_items
            from target_ngrams join target_places using (doc) group by all
        ) group by ngram
    )
    select ngram, ngram in (select ngram from listed_ngrams) as listed, coalesce(num_texts, 0) as num_texts, num_items
    from in_targets left join in_mixture using (ngram)
    where listed or num_texts >= {boilerplate_texts} or num_items >= {boilerplate_items}
"""

# how many words of a target text are covered by n-grams that a text of the mixture shares
COVERED = """
    create or replace temp table covered as
    with evidence as (
        select doc, ngram, ngram in (select ngram from boilerplate) as is_boilerplate
        from (select distinct doc, ngram from mixture_ngrams)
    ),
    shared as (
        select evidence.doc, target_ngrams.doc as target, position, is_boilerplate
        from evidence join target_ngrams using (ngram)
        {only_evidence}
    ),
    steps as (
        select *, lead(position) over (partition by doc, target order by position) - position as step from shared
    )
    select doc, target, sum(least({ngram_words}, coalesce(step, {ngram_words}))) as num_covered
    from steps group by all having not bool_and(is_boilerplate)
"""

# idf = ln((1 + texts) / texts with the word), in whole thousandths
WEIGHTS = """
    create or replace temp table weights as
    select word, round({unit} * ln((1 + {num_texts}) / sum(num_texts)))::bigint as weight from frequencies group by word
"""

# each target text's words with their weight, how often they stand in it, and how often outside boilerplate
TARGET_WORDS = """
    create or replace temp table target_words as
    with boilerplate_positions as (
        select distinct doc, unnest(range(position, position + {ngram_words})) as position
        from target_ngrams where ngram in (select ngram from boilerplate)
    )
    select doc, word, weight, count(*) as n, count_if(boilerplate_positions.position is null) as num_telling
    from target_positions left join boilerplate_positions using (doc, position) join weights using (word)
    group by all
"""

# near duplicates: of the texts that share a band, those whose sets of words are alike indeed
NEAR = """
    create or replace temp table near as
    with mixture_sets as (select doc, list(word) as words from mixture_words group by doc),
    target_sets as (select doc as target, list(word) as words from target_words group by doc),
    counted as (
        select
            doc, target, len(m.words) + len(t.words) as num_both,
            len(list_intersect(m.words, t.words)) as num_shared
        from banded join mixture_sets m using (doc) join target_sets t using (target)
    )
    select doc, target from counted where num_shared >= {threshold} * (num_both - num_shared)
"""

# candidates whose differing words weigh little
ALIKE = """
    create or replace temp table alike as
    with candidates as (select doc, target from covered union from near),
    shared as (
        select
            candidates.doc, target,
            sum(least(m.n, t.n)) as num_words,
            sum(weight * least(m.n, t.n)) as weight,
            sum(weight * least(m.n, t.n) * num_telling // t.n) as telling
        from candidates
        join mixture_words m on m.doc = candidates.doc
        join target_words t on t.doc = target and t.word = m.word
        group by all
    ),
    mixture_totals as (
        select doc, sum(n) as num_words, sum(n * weight) as weight
        from mixture_words join weights using (word) group by doc
    ),
    target_totals as (
        select doc as target, sum(n) as num_words, sum(n * weight) as weight
        from target_words group by doc
    ),
    compared as (
        select
            doc, target,
            s.num_words / t.num_words as share,
            least(m.num_words, t.num_words) - s.num_words as num_different,
            least(m.weight, t.weight) - s.weight as different,
            different / nullif(different + s.telling, 0) as difference
        from shared s join mixture_totals m using (doc) join target_totals t using (target)
    )
    select doc, target, share, difference from compared
    where difference <= {max_difference} or (num_different <= 1 and difference <= {one_word_share})
"""

# what is judged a hit on a prompt, by the strongest kind
TURN_MATCHES = """
    create or replace temp table matches as
    with found as (
        select doc, target, 1 as strength, 'exact' as kind, 1.0::double as share from exact
        union all
        select covered.doc, target, 2, 'ngram', least(1, num_covered / num_words)
        from covered join alike using (doc, target) join target_lengths on target_lengths.doc = target
        where num_covered >= {prompt_share} * num_words
        union all
        select doc, target, 3, 'near_duplicate', share from alike join near using (doc, target)
    )
    select doc, target, unnest(min({{'strength': strength, 'kind': kind, 'share': share}})) from found
    group by doc, target
"""

RESPONSE_MATCHES = """
    -- response_ngram: shared n-grams cover enough of a target response
    create or replace temp table matches as
    select covered.doc, target, 4 as strength, 'response_ngram' as kind, num_covered / num_words as share
    from covered join target_lengths on target_lengths.doc = target
    where num_covered >= {response_share} * num_words
"""

# texts of the mixture that share a MinHash band with a target
BANDED = """
    create or replace temp table banded as
    select distinct mixture_bands.doc, target_bands.doc as target from mixture_bands join target_bands using (band)
"""

# both texts of candidates with the same words in the same order
SAME_WORDS = """
    select m.doc, t.doc, m.text, t.text
    from mixture_wholes join target_wholes using (whole)
    join mixture_texts m on m.doc = mixture_wholes.doc
    join target_texts t on t.doc = target_wholes.doc
"""

# both texts of each match
MATCHED_TEXTS = """
    select doc, target, mixture_texts.text, target_texts.text
    from matches
    join mixture_texts using (doc)
    join target_texts on target_texts.doc = target
"""

# each n-gram of boilerplate that both sides have, with one text where it stands
BOILERPLATE_USED = """
    select text, position, listed, num_texts, num_items
    from boilerplate
    join (
        select ngram, unnest(min({'doc': doc, 'position': position})) from target_ngrams group by ngram
    ) using (ngram)
    join target_texts using (doc)
    where num_texts > 0
"""

TABLES = """
    create or replace temp table hits (
        side varchar, prompt_id varchar, response_id varchar, turn integer, place integer, benchmark varchar,
        item_id varchar, label varchar, strength integer, kind varchar, share double, start bigint, stop bigint,
        span varchar
    );
    create or replace temp table boilerplate_uses (
        side varchar, ngram varchar, listed boolean, num_texts bigint, num_items bigint
    )
"""

# a first turn always counts; a short follow-up such as "Thanks!" means nothing without its conversation
TURN_HITS = """
    insert into hits by name
    select
        'prompt' as side, prompt_id, mixture_places.turn, place, benchmark, item_id, label, strength, kind, share,
        start, stop, span
    from matches
    join spans using (doc, target)
    join mixture_places using (doc)
    join target_places on target_places.doc = target
    join target_lengths on target_lengths.doc = target
    where target_places.turn = 1 or num_words >= {min_words}
"""

RESPONSE_HITS = """
    insert into hits by name
    select
        'response' as side, mixture_docs.prompt_id, response_id, place, benchmark, item_id, label, strength, kind,
        share, start, stop, span
    from matches
    join spans using (doc, target)
    join mixture_docs using (doc)
    join target_places on target_places.doc = target
"""


# hits and ignored n-grams as files hold them
HITS_ORDERED = """
    select
        side, prompt_id, response_id, turn, benchmark, item_id, label, kind, share, start, stop, span
    from hits
    order by place, item_id, side, prompt_id, response_id, turn, strength, share, start, stop, span
"""
USES_ORDERED = "from boilerplate_uses order by side, ngram"


def find_hits(con: duckdb.DuckDBPyConnection, guard: Guard, boilerplate: Sequence[str]) -> None:
    """Compare the train pairs with the targets.

    Needs the views ``prompts`` and ``responses`` (``load_texts``), ``train_pairs`` (prompt_id, chosen_id, rejected_id)
    and what ``load_targets`` creates. Creates

    - ``hits``: side (prompt or response), prompt_id, response_id or null, turn (of the prompt, from 1) or null, place,
      benchmark, item_id, label, strength (order of the kinds), kind, share (of the target's words), start and stop
      (characters of the longest run of words that both have, in the mixture's text), span (that text);
    - ``boilerplate_uses``: side, ngram, listed, num_texts, num_items of every n-gram that was ignored.

    Args:
        boilerplate: texts whose n-grams tell nothing.
    """
    con.execute(TABLES)
    _compare_turns(con, guard, boilerplate)
    _compare_responses(con, guard, boilerplate)


def _compare_turns(con: duckdb.DuckDBPyConnection, guard: Guard, boilerplate: Sequence[str]) -> None:
    con.execute(TARGETS.format(table="target_turns"))
    targets = read_targets(con, guard, guard.min_words, turns=True)
    if not num_rows(targets["lengths"]):
        return
    con.execute(MIXTURE_TURNS)
    mixture = read_mixture(con, guard, targets, turns=True)
    num_texts = num_rows(targets["lengths"]) + num_rows(mixture["lengths"])
    _store(con, "frequencies", targets["frequencies"] + mixture["frequencies"])
    _store_all(con, targets, mixture)
    _find_boilerplate(con, guard, boilerplate, "prompt", "doc")
    # What short prompts have in common is boilerplate too, but they are compared as wholes only.
    con.execute(
        f"delete from target_ngrams where doc in (select doc from target_lengths where num_words < {guard.min_words})"
    )
    con.execute(COVERED.format(ngram_words=guard.ngram_words, only_evidence=""))
    con.execute(BANDED)
    con.execute(WEIGHTS.format(unit=IDF_UNIT, num_texts=num_texts))
    con.execute(TARGET_WORDS.format(ngram_words=guard.ngram_words))
    _count_words_of_candidates(con)
    con.execute(NEAR.format(threshold=guard.near_duplicate.threshold if guard.near_duplicate else 1))
    con.execute(ALIKE.format(max_difference=guard.max_difference, one_word_share=ONE_WORD_SHARE))
    _find_exact(con)
    con.execute(TURN_MATCHES.format(prompt_share=guard.prompt_share))
    _find_spans(con)
    con.execute(TURN_HITS.format(min_words=guard.min_words))


def _compare_responses(con: duckdb.DuckDBPyConnection, guard: Guard, boilerplate: Sequence[str]) -> None:
    con.execute(TARGETS.format(table="target_responses"))
    targets = read_targets(con, guard, guard.min_response_words, turns=False)
    if not num_rows(targets["ngrams"]):
        return
    # A text of n words has at least 2 n - 1 characters.
    con.execute(MIXTURE_RESPONSES.format(least_characters=2 * guard.min_response_words - 1))
    mixture = read_mixture(con, guard, targets, turns=False)
    _store_all(con, targets, mixture)
    con.execute(
        "delete from mixture_ngrams where doc in "
        f"(select doc from mixture_lengths where num_words < {guard.min_response_words})"
    )
    _find_boilerplate(con, guard, boilerplate, "response", "prompt_id")
    con.execute(COVERED.format(ngram_words=guard.ngram_words, only_evidence="where not is_boilerplate"))
    con.execute(RESPONSE_MATCHES.format(response_share=guard.response_share))
    _find_spans(con)
    con.execute(RESPONSE_HITS)


def _store_all(con: duckdb.DuckDBPyConnection, targets: Parts, mixture: Parts) -> None:
    for side, read in (("target", targets), ("mixture", mixture)):
        for table, parts in read.items():
            if table != "frequencies":
                _store(con, f"{side}_{table}", parts)


def _store(con: duckdb.DuckDBPyConnection, table: str, parts: Sequence[Columns]) -> None:
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    con.register("arrow_columns", pa.table(columns))
    con.execute(f"create or replace temp table {table} as from arrow_columns")
    con.unregister("arrow_columns")


def _find_boilerplate(
    con: duckdb.DuckDBPyConnection, guard: Guard, boilerplate: Sequence[str], side: str, owner: str
) -> None:
    """Create ``boilerplate`` and note what of it both sides have.

    Args:
        owner: column of ``target_places`` whose values are counted: texts of prompts, or the prompts of responses.
    """
    listed = hash_ngrams(hash_words(boilerplate), guard.ngram_words).hashes
    _store(con, "listed_ngrams", [{"ngram": listed}])
    limits = guard.model_dump(include={"boilerplate_texts", "boilerplate_items"})
    con.execute(BOILERPLATE.format(owner=owner, **limits))
    used = con.execute(BOILERPLATE_USED).fetchall()
    rows = [
        [side, " ".join(words(text)[position : position + guard.ngram_words]), *numbers]
        for text, position, *numbers in used
    ]
    if rows:
        con.executemany("insert into boilerplate_uses values (?, ?, ?, ?, ?)", rows)


def _count_words_of_candidates(con: duckdb.DuckDBPyConnection) -> None:
    counted = []
    query = """
        select doc, text from mixture_texts
        where doc in (select doc from covered) or doc in (select doc from banded)
    """
    for docs, texts in batches(con, query):
        in_texts, found, n = count_words(hash_words(texts))
        counted.append({"doc": docs[in_texts], "word": found, "n": n})
    _store(con, "mixture_words", counted)


def _find_exact(con: duckdb.DuckDBPyConnection) -> None:
    """Create ``exact``: texts with the same words that are the same text when normalised, punctuation and all."""
    pairs = con.execute(SAME_WORDS).fetchall()
    same = [(doc, target) for doc, target, text, other in pairs if normalise(text) == normalise(other)]
    _store(con, "exact", [{"doc": _column(same, 0), "target": _column(same, 1)}])


def _find_spans(con: duckdb.DuckDBPyConnection) -> None:
    """Create ``spans``: for each match the longest run of words that both texts have."""
    rows = con.execute(MATCHED_TEXTS).fetchall()
    found = [longest_common_run(text, other) for _, _, text, other in rows]
    columns = {
        "doc": _column(rows, 0),
        "target": _column(rows, 1),
        "start": np.array([span.start for span in found], dtype=np.int64),
        "stop": np.array([span.stop for span in found], dtype=np.int64),
    }
    con.register("arrow_spans", pa.table({**columns, "span": pa.array([span.text for span in found], pa.string())}))
    con.execute("create or replace temp table spans as from arrow_spans")
    con.unregister("arrow_spans")


def _column(rows: Sequence[tuple[Any, ...]], index: int) -> Indices:
    return np.array([row[index] for row in rows], dtype=np.int64)
