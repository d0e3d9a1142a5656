"""Words exchanged for words that mean the same: contractions, spellings and a short table of synonyms of our own.

This is far from a paraphrase: the order of the words stays, and most words too. Words are listed only where they mean
the same in nearly every sentence, so that most texts change in a few places and some in none.
"""

import re
from functools import partial

SPELLINGS = {
    "analyze": "analyse",
    "analyzing": "analysing",
    "apologize": "apologise",
    "behavior": "behaviour",
    "behaviors": "behaviours",
    "canceled": "cancelled",
    "center": "centre",
    "centers": "centres",
    "color": "colour",
    "colorful": "colourful",
    "colors": "colours",
    "cozy": "cosy",
    "defense": "defence",
    "favor": "favour",
    "favorite": "favourite",
    "favorites": "favourites",
    "fiber": "fibre",
    "flavor": "flavour",
    "flavorful": "flavourful",
    "flavors": "flavours",
    "gray": "grey",
    "honor": "honour",
    "humor": "humour",
    "jewelry": "jewellery",
    "labor": "labour",
    "mom": "mum",
    "neighbor": "neighbour",
    "neighborhood": "neighbourhood",
    "neighbors": "neighbours",
    "organization": "organisation",
    "organizations": "organisations",
    "organize": "organise",
    "organized": "organised",
    "organizing": "organising",
    "realize": "realise",
    "realized": "realised",
    "recognize": "recognise",
    "recognized": "recognised",
    "theater": "theatre",
    "traveled": "travelled",
    "traveler": "traveller",
    "travelers": "travellers",
    "traveling": "travelling",
}
SYNONYMS = {
    "additionally": "in addition",
    "almost": "nearly",
    "approximately": "about",
    "begin": "start",
    "beginning to": "starting to",
    "begins": "starts",
    "delicious": "tasty",
    "difficult": "hard",
    "for example": "for instance",
    "for instance": "for example",
    "furthermore": "moreover",
    "glad": "happy",
    "in order to": "to",
    "maybe": "perhaps",
    "moreover": "furthermore",
    "nearly": "almost",
    "numerous": "many",
    "often": "frequently",
    "perhaps": "maybe",
    "purchasing": "buying",
    "quickly": "rapidly",
    "sufficient": "enough",
    "toward": "towards",
    "usually": "normally",
    "utilize": "use",
    "utilizing": "using",
}
SWAPS = {**SPELLINGS, **SYNONYMS}
LONGEST_FIRST = sorted(SWAPS, key=lambda word: (-len(word), word))
SWAPPED = re.compile(rf"\b(?:{'|'.join(LONGEST_FIRST)})\b", re.I)

# "Don't you" is not "do not you".
NO_QUESTION = r"(?!\s+(?:i|you|he|she|it|we|they|there|this|that|the)\b)"
AUXILIARIES = "do|does|did|is|are|was|were|has|have|had|could|should|would|must|need"
# What ends in 's or 'd is left out: "it's" may be "it is" or "it has".
CONTRACTIONS = tuple(
    (re.compile(pattern, re.I), written_out)
    for pattern, written_out in (
        (rf"\b(ca)n['’]t\b{NO_QUESTION}", r"\1nnot"),
        (rf"\b(w)on['’]t\b{NO_QUESTION}", r"\1ill not"),
        (rf"\b({AUXILIARIES})n['’]t\b{NO_QUESTION}", r"\1 not"),
        (r"\b(i)['’]m\b", r"\1 am"),
        (r"\b(you|we|they|there|who|what)['’]re\b", r"\1 are"),
        (r"\b(i|you|he|she|it|we|they|that|there|this|who)['’]ll\b", r"\1 will"),
        (r"\b(i|you|we|they|could|should|would|might|must)['’]ve\b", r"\1 have"),
    )
)


def word_swaps(text: str) -> str:
    """Return a text with other words of the same meaning where the tables have any.

    >>> word_swaps("Perhaps you'll like it. Don't you? I can't say. My favorite color is gray, for example.")
    "Maybe you will like it. Don't you? I cannot say. My favourite colour is grey, for instance."
    """
    for contraction, written_out in CONTRACTIONS:
        text = contraction.sub(partial(_written_out, written_out), text)
    return SWAPPED.sub(lambda found: _in_its_case(SWAPS[found[0].lower()], found[0]), text)


def _written_out(template: str, found: re.Match[str]) -> str:
    """Return a contraction in full, in capitals where all of it is; "I'm" is not."""
    words = found.expand(template)
    return words.upper() if found[0].isupper() else words


def _in_its_case(word: str, example: str) -> str:
    if example.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if example[:1].isupper() else word
