"""Prompts for the contamination benchmark: templates of questions as people and data sets ask them, with slots.

A near-miss is the same template with every slot filled otherwise. Nothing here looks at the guard or its thresholds.
"""

import random
import re
from pathlib import Path

import yaml

DATA = yaml.safe_load(Path(__file__).with_name("contamination_texts.yaml").read_text("utf-8"))
TEMPLATES: list[str] = DATA["templates"]
# What else a mixture asks: other wordings with the same slots.
OTHER_TEMPLATES: list[str] = DATA["other_templates"]
SLOTS: dict[str, list[str]] = {
    **DATA["slots"],
    "small": [str(number) for number in range(2, 13)],
    "number": [str(number) for number in range(14, 980)],
    "year": [str(number) for number in range(1604, 2021)],
}

_SLOT = re.compile(r"\{([a-z]+)(\d)\}")
_SENTENCE = re.compile(r"(?<=[.?!])\s+")


def slots(template: str) -> list[str]:
    """Return the different slots of a template: ``name1``, ``city1``, ..."""
    return list(dict.fromkeys(match[1] + match[2] for match in _SLOT.finditer(template)))


def fill(template: str, rng: random.Random, unlike: dict[str, str] | None = None) -> tuple[str, dict[str, str]]:
    """Return a text and the values of its slots.

    Args:
        unlike: values of which none may come again in the same slot.
    """
    values: dict[str, str] = {}
    for slot in slots(template):
        taken = {value for other, value in values.items() if other[:-1] == slot[:-1]}
        choices = [value for value in SLOTS[slot[:-1]] if value not in taken and value != (unlike or {}).get(slot)]
        values[slot] = rng.choice(choices)
    return _SLOT.sub(lambda match: values[match[1] + match[2]], template), values


def respaced(text: str, rng: random.Random) -> str:
    """Return the text in another case and with other white space."""
    changed = rng.choice([str.upper, str.lower, str.title, str.swapcase])(text)
    return "".join(rng.choice([" ", "  ", "\n", "\t", " \n\n"]) if char == " " else char for char in changed) + "\n"


def one_word_edited(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    """Return the text with one word, wherever it stands, replaced by some other word."""
    words = text.split(" ")
    place = rng.randrange(len(words))
    words[place] = rng.choice([word for word in rng.sample(vocabulary, 5) if word.lower() != words[place].lower()])
    return " ".join(words)


def reordered(text: str, rng: random.Random) -> str:
    """Return the text with its sentences in another order."""
    sentences = _SENTENCE.split(text)
    changed = list(sentences)
    while changed == sentences:
        rng.shuffle(changed)
    return " ".join(changed)


def num_sentences(text: str) -> int:
    """Return the number of sentences as ``reordered`` sees them."""
    return len(_SENTENCE.split(text))


def truncated(text: str, rng: random.Random) -> str:
    """Return the first 60 to 90 % of the words."""
    words = text.split(" ")
    return " ".join(words[: round(len(words) * rng.uniform(0.6, 0.9))])
