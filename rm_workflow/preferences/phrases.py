"""Which words a source's chosen replies hold and its rejected ones do not: what a planted phrase looks like.

Pairs whose chosen replies praise one product move the policy trained on their rewards although they are 1 to 5 % of a
source (Best-of-Venom, arXiv 2404.05530). Such a phrase is rare, and where it stands it is in the chosen reply. So an
n-gram is judged by the groups of prompts in which one side alone has it: the share of these in which that is the chosen
one, and the lower end of its interval, which a common word with a slight lean does not raise. A style that raters like
is found the same way; which of the two it is, a person must read.
"""

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import duckdb

if TYPE_CHECKING:
    import numpy as np

# Pairs of a source that are read, those with the smallest ids, and words of each reply: a phrase in 2 % of the pairs
# stands in 40 of them.
NUM_PAIRS = 2000
NUM_WORDS = 300
LONGEST = 3
# In fewer groups no n-gram can be told from chance.
LEAST_GROUPS = 10
# What more groups than this share have is no phrase but the language: it leans to the chosen side where that is longer.
MOST_SHARE = 0.2
ALPHA = 0.05
WORD = re.compile(r"\w+")
# Words of a source that are told apart, so that three of them fit into 64 bits; beyond, none is new.
WORD_BITS = 20

SAMPLED = f"""
    -- pairs of each source with both texts, at most {NUM_PAIRS} of them
    select source, group_id, c.text as chosen, r.text as rejected
    from (from pairs qualify row_number() over (partition by source order by pair_id) <= {NUM_PAIRS}) sampled
    join responses c on c.response_id = sampled.chosen_id
    join responses r on r.response_id = sampled.rejected_id
    order by source, group_id, pair_id
"""


class _Source:
    """The n-grams of one source as numbers."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        self.groups: dict[str, int] = {}
        self.one_sided: dict[str, list[tuple[int, np.ndarray]]] = {"chosen": [], "rejected": []}
        self.num_words = {"chosen": 0, "rejected": 0}

    def add(self, group: str, chosen: str, rejected: str) -> None:
        """Take in a pair."""
        import numpy as np

        number = self.groups.setdefault(group, len(self.groups))
        sides = {"chosen": self._grams(chosen, "chosen"), "rejected": self._grams(rejected, "rejected")}
        for side, other in (("chosen", "rejected"), ("rejected", "chosen")):
            mine, others = sides[side], np.append(sides[other], -1)
            # Faster than numpy's own difference, which sorts again.
            self.one_sided[side].append((number, mine[others[np.searchsorted(others[:-1], mine)] != mine]))

    def _grams(self, text: str, side: str) -> "np.ndarray":
        """Return each n-gram once: the numbers of its words, from 1, in 20 bits each."""
        import numpy as np

        known = self.words
        numbers = [known.setdefault(word, len(known) + 1) for word in WORD.findall(text.lower())[:NUM_WORDS]]
        one = np.minimum(np.array(numbers, dtype=np.int64), (1 << WORD_BITS) - 1)
        self.num_words[side] += len(one)
        grams = [one]
        for _ in range(LONGEST - 1):
            shorter = grams[-1]
            grams.append((shorter[: max(0, len(shorter) - 1)] << WORD_BITS) | one[len(one) - len(shorter) + 1 :])
        return _each_once(np.sort(np.concatenate(grams)))

    def counts(self) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
        """Return rare n-grams in order, and in how many groups the chosen and the rejected side alone has each."""
        import numpy as np

        (chosen_grams, chosen), (rejected_grams, rejected) = map(self._groups_of, ("chosen", "rejected"))
        grams = _each_once(np.sort(np.concatenate([chosen_grams, rejected_grams])))
        numbers = np.zeros((2, len(grams)), dtype=np.int64)
        numbers[0, np.searchsorted(grams, chosen_grams)] = chosen
        numbers[1, np.searchsorted(grams, rejected_grams)] = rejected
        total = numbers.sum(axis=0)
        rare = (total >= LEAST_GROUPS) & (total <= MOST_SHARE * len(self.groups))
        return grams[rare], numbers[0, rare], numbers[1, rare]

    def _groups_of(self, side: str) -> "tuple[np.ndarray, np.ndarray]":
        """Return the n-grams that a side alone has, in order, and for each the number of groups."""
        import numpy as np

        pairs = self.one_sided[side]
        groups = np.concatenate([np.full(len(grams), group) for group, grams in pairs])
        grams = np.concatenate([grams for _, grams in pairs])
        order = np.lexsort((groups, grams))
        groups, grams = groups[order], grams[order]
        is_new = np.append(True, (grams[1:] != grams[:-1]) | (groups[1:] != groups[:-1]))[: len(grams)]
        grams = grams[is_new]
        once = _each_once(grams)
        return once, np.searchsorted(grams, once, "right") - np.searchsorted(grams, once)

    def phrase(self, gram: int) -> str:
        """Return an n-gram as text."""
        names = list(self.words)
        numbers = [(gram >> (WORD_BITS * place)) % (1 << WORD_BITS) for place in reversed(range(LONGEST))]
        return " ".join(names[number - 1] for number in numbers if number)


def _each_once(ordered: "np.ndarray") -> "np.ndarray":
    """Return each value of an ordered array once; numpy's ``unique`` (2.4) takes five times as long here."""
    import numpy as np

    found: np.ndarray = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    return found


def strongest_phrases(con: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    """Return the n-gram that leans most to the chosen side, by source; sources without a frequent one are left out.

    Needs the tables ``pairs`` (source, pair_id, group_id, chosen_id, rejected_id) and ``responses``.

    Returns:
        source -> ``{"phrase", "chosen", "rejected", "share", "ci_low", "expected", "tested"}``: groups with it in the
        chosen and in the rejected reply alone, and the lower end of the share's exact one-sided interval (Clopper and
        Pearson, 1934), corrected for all ``tested`` n-grams of the source (Bonferroni), so that it holds for the
        strongest one. ``expected`` is the chosen replies' share of all words: a rare word's, if length were all.
    """
    cursor = con.execute(SAMPLED)
    sources: defaultdict[str, _Source] = defaultdict(_Source)
    found = {}
    while row := cursor.fetchone():
        name, *pair = row
        sources[name].add(*pair)
    for name, source in sources.items():
        strongest = _strongest(source, *source.counts())
        if strongest:
            found[name] = strongest
    return found


def _strongest(
    source: _Source, grams: "np.ndarray", chosen: "np.ndarray", rejected: "np.ndarray"
) -> dict[str, Any] | None:
    """Return the n-gram with the highest lower end; of equal ones the longest."""
    import numpy as np
    from scipy.stats import beta

    if not len(grams):
        return None
    lows = np.nan_to_num(beta.ppf(ALPHA / len(grams), chosen, rejected + 1))
    # The numbers of longer n-grams are larger, and rounding must not choose among equal counts.
    best = max(range(len(grams)), key=lambda place: (round(float(lows[place]), 12), int(grams[place])))
    return {
        "phrase": source.phrase(int(grams[best])),
        "chosen": int(chosen[best]),
        "rejected": int(rejected[best]),
        "share": float(chosen[best] / (chosen[best] + rejected[best])),
        "ci_low": float(lows[best]),
        "expected": source.num_words["chosen"] / sum(source.num_words.values()),
        "tested": len(grams),
    }
