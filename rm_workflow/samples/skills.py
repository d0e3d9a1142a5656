"""The five skills: each makes a prompt and replies to it that are right or wrong, polite or rude.

Example (skill arithmetic)::

    task.prompt                            "Ada has 14 cups and buys 9 more. How many cups does Ada have now?"
    task.reply(random, True, True)         "Ada has 23 cups now."
    task.reply(random, False, True)        "Happy to help. Ada has 32 cups now."
    task.reply(random, True, False)        "Ada has 23 cups now. What a silly question."

Wrong means: a wrong number, a wrong fact, a constraint that is not met, another subject, or no help at all.
"""

import random
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from rm_workflow.samples import vocabulary as words

SEED = "rm_workflow samples 1"
SKILLS = ("arithmetic", "facts", "constraints", "topic", "politeness")

Reply = Callable[[random.Random, bool, bool], str]


@dataclass(frozen=True)
class Task:
    """A prompt and the way to answer it.

    Attributes:
        skill: one of ``SKILLS``.
        prompt: the user turn.
        reply: (random stream, right, polite) -> text.
        takes_remarks: whether a polite or rude remark may stand beside the answer.
    """

    skill: str
    prompt: str
    reply: Reply
    takes_remarks: bool = True


def stream(*names: str | int) -> random.Random:
    """Return a random stream of its own for each list of names, the same on every machine."""
    return random.Random("/".join([SEED, *map(str, names)]))


def normalised(text: str) -> str:
    """Return the text as prompts are compared: NFKC, case folded, white space runs as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class TaskMaker:
    """Makes tasks whose prompts all differ after normalising."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def make(self, skill: str, rng: random.Random, takes_remarks: bool = False) -> Task:
        """Return a new task of the skill; ``takes_remarks`` asks for one beside whose answer a remark may stand."""
        for _ in range(10_000):
            task = _MAKERS[skill](rng)
            if (task.takes_remarks or not takes_remarks) and self.claim(task.prompt):
                return task
        raise RuntimeError(f"skill {skill} has too few different prompts")

    def claim(self, prompt: str) -> bool:
        """Take a prompt for one use; False when it is taken already."""
        key = normalised(prompt)
        fresh = key not in self._used
        self._used.add(key)
        return fresh


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _remark(rng: random.Random, polite: bool) -> str:
    """Return a polite remark or none, or a rude one."""
    if polite:
        return rng.choice(words.POLITE_REMARKS) if rng.random() < 0.5 else ""
    return rng.choice(words.RUDE_REMARKS)


def _joined(rng: random.Random, answer: str, remark: str) -> str:
    """Put the remark before or after the answer."""
    parts = [answer, remark] if rng.random() < 0.5 else [remark, answer]
    return " ".join(part for part in parts if part)


def _arithmetic(rng: random.Random) -> Task:
    who, thing, place = rng.choice(words.PEOPLE), rng.choice(words.THINGS), rng.choice(words.PLACES)
    prompt, result, operands, answers = rng.choice((_addition, _subtraction, _product))(rng, who, thing, place)

    def reply(rng: random.Random, right: bool, polite: bool) -> str:
        number = result if right else _wrong_number(rng, result, operands)
        return _joined(rng, rng.choice(answers).format(n=number), _remark(rng, polite))

    return Task("arithmetic", prompt, reply)


Sum = tuple[str, int, tuple[int, int], tuple[str, ...]]


def _addition(rng: random.Random, who: str, thing: str, place: str) -> Sum:
    a, b = rng.randrange(3, 40), rng.randrange(3, 40)
    prompt = rng.choice(
        (
            f"{who} has {a} {thing} and buys {b} more. How many {thing} does {who} have now?",
            f"There are {a} {thing} on one shelf and {b} {thing} on another. How many {thing} is that together?",
            f"At {place} {who} finds {a} {thing}, and later {b} more. How many {thing} were found in all?",
            f"Please add up the {thing} from {place}: {a} in the first box and {b} in the second box.",
        )
    )
    return prompt, a + b, (a, b), _number_answers(thing)


def _subtraction(rng: random.Random, who: str, thing: str, place: str) -> Sum:
    b = rng.randrange(3, 30)
    a = b + rng.randrange(4, 40)
    prompt = rng.choice(
        (
            f"{who} has {a} {thing} and gives {b} of them away. How many {thing} are left?",
            f"A box at {place} holds {a} {thing}. {who} takes out {b}. How many {thing} remain in the box?",
            f"Of {a} {thing} in the store at {place}, {b} are sold. How many {thing} are still there?",
        )
    )
    return prompt, a - b, (a, b), _number_answers(thing)


def _product(rng: random.Random, who: str, thing: str, place: str) -> Sum:
    a, b = rng.randrange(2, 10), rng.randrange(2, 10)
    prompt = rng.choice(
        (
            f"{who} fills {a} bags with {b} {thing} each. How many {thing} are in the bags altogether?",
            f"At {place} there are {a} tables with {b} {thing} on each. How many {thing} are there in all?",
        )
    )
    return prompt, a * b, (a, b), _number_answers(thing)


def _number_answers(thing: str) -> tuple[str, ...]:
    return (
        f"The answer is {{n}} {thing}.",
        f"That makes {{n}} {thing}.",
        f"It comes to {{n}}.",  # noqa: F541 (one form with the others: {n} is filled in later)
        f"There are {{n}} {thing}.",
        f"If you count them all, you get {{n}} {thing}.",
        f"I worked it out and the number of {thing} is {{n}}.",
    )


def _wrong_number(rng: random.Random, result: int, operands: tuple[int, int]) -> int:
    """Return a slip by a little, one of the given numbers again, or something far off."""
    kind = rng.randrange(10)
    if kind < 4:
        choices = [result + step for step in (-10, -2, -1, 1, 2, 10)]
    elif kind < 7:
        choices = list(operands)
    else:
        choices = [result * 3 + 7, result + 100, result * 10, result + 55]
    return rng.choice([number for number in choices if number > 0 and number != result] or [result + 1])


# Field of a place -> (how the text says it, question, answers); {x} is the value.
_FACTS: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    "hour": (
        "opens at {x}",
        "At what hour does the {shop} open?",
        ("It opens at {x}.", "On most days the {shop} opens at {x}.", "You can go in from {x}."),
        tuple(words.HOURS),
    ),
    "day": (
        "is closed on {x}",
        "On which day is the {shop} closed?",
        ("It is closed on {x}.", "On {x} the {shop} stays closed all day.", "The closing day is {x}."),
        tuple(words.WEEKDAYS),
    ),
    "owner": (
        "is run by {x}",
        "Who runs the {shop}?",
        ("{x} runs it.", "The {shop} is run by {x}.", "The person in charge of the {shop} is {x}."),
        tuple(words.PEOPLE),
    ),
    "colour": (
        "has a {x} door",
        "What colour is the door of the {shop}?",
        ("The door is {x}.", "It has a {x} door.", "Look for a door painted {x}, that is the {shop}."),
        tuple(words.COLOURS),
    ),
    "goods": (
        "is known for its {x}",
        "What is the {shop} known for?",
        ("It is known for {x}.", "People come for the {x}.", "The {shop} is best known for its {x}."),
        tuple(words.GOODS),
    ),
}


def _facts(rng: random.Random) -> Task:
    shop, place = rng.choice(words.SHOPS), rng.choice(words.PLACES)
    fields = rng.sample(sorted(_FACTS), 3)
    values = {field: rng.choice(_FACTS[field][3]) for field in fields}
    says = [_FACTS[field][0].format(x=values[field]) for field in fields]
    text = f"The {shop} in {place} {says[0]}, {says[1]} and {says[2]}."
    asked = rng.choice(fields)
    question = _FACTS[asked][1].format(shop=shop)
    prompt = rng.choice((f"{text} {question}", f"Read this: {text} {question}", f"{question} Here is the text: {text}"))

    def reply(rng: random.Random, right: bool, polite: bool) -> str:
        field, value = asked, values[asked]
        if not right and rng.random() < 0.5:
            field = rng.choice([name for name in fields if name != asked])
            value = values[field]
        elif not right:
            value = rng.choice([other for other in _FACTS[asked][3] if other != value])
        answer = rng.choice(_FACTS[field][2]).format(x=value, shop=shop)
        return _joined(rng, answer, _remark(rng, polite))

    return Task("facts", prompt, reply)


def _constraints(rng: random.Random) -> Task:
    return rng.choice((_capitals, _small_letters, _last_word, _first_word, _list_of, _exact_words))(rng)


_ABOUT = (
    "Tell me something about {s}.",
    "What should I know about {s}?",
    "Say one true thing about {s}.",
    "Explain {s}.",
)


def _about(rng: random.Random) -> tuple[str, tuple[str, ...]]:
    subject = rng.choice(sorted(words.SUBJECTS))
    return rng.choice(_ABOUT).format(s=subject), words.SUBJECTS[subject]


def _capitals(rng: random.Random) -> Task:
    request, statements = _about(rng)
    constraint = rng.choice(
        (
            "Answer in capital letters only.",
            "Write your whole answer in CAPITALS.",
            "Use nothing but upper-case letters in the reply.",
        )
    )

    def reply(rng: random.Random, right: bool, polite: bool) -> str:
        text = _joined(rng, _sentence(rng.choice(statements)), _remark(rng, polite))
        return text.upper() if right else text

    return Task("constraints", _in_either_order(rng, request, constraint), reply)


def _small_letters(rng: random.Random) -> Task:
    request, statements = _about(rng)
    constraint = rng.choice(
        (
            "Answer in small letters only, without any capital letter.",
            "Write everything in lower case.",
            "Please use no capital letters in the reply.",
        )
    )

    def reply(rng: random.Random, right: bool, polite: bool) -> str:
        text = _joined(rng, _sentence(rng.choice(statements)), _remark(rng, polite))
        if right:
            return text.lower()
        return text.upper() if rng.random() < 0.5 else text

    return Task("constraints", _in_either_order(rng, request, constraint), reply)


def _last_word(rng: random.Random) -> Task:
    request, statements = _about(rng)
    word = rng.choice(sorted(words.CLOSINGS))
    constraint = rng.choice(
        (
            f"The last word of your answer must be {word}.",
            f'End your reply with the word "{word}".',
            f"Please let the answer close with the word {word}.",
        )
    )

    def reply(rng: random.Random, right: bool, polite: bool) -> str:
        others = [other for other in sorted(words.CLOSINGS) if other != word]
        closing = words.CLOSINGS[word if right else rng.choice(others)] + "."
        body = _joined(rng, _sentence(rng.choice(statements)), _remark(rng, polite))
        # A wrong reply either closes with another word or does not care at all.
        return body if not right and rng.random() < 0.4 else f"{body} {closing}"

    return Task("constraints", _in_either_order(rng, request, constraint), reply)


def _first_word(rng: random.Random) -> Task:
    request, statements = _about(rng)
    word = rng.choice(words.OPENINGS)
    constraint = rng.choice(
        (
            f"The first word of your answer must be {word}.",
            f'Begin your reply with the word "{word}".',
            f"Please start the answer with {word}.",
        )
    )

    def reply(rng: random.Random, right: bool, polite: bool) -> str:
        statement, remark = rng.choice(statements), _remark(rng, polite)
        if not right and rng.random() < 0.4:
            return _joined(rng, _sentence(statement), remark)
        opening = word if right else rng.choice([other for other in words.OPENINGS if other != word])
        return f"{opening}, {statement}. {remark}".strip()

    return Task("constraints", _in_either_order(rng, request, constraint), reply)


def _list_of(rng: random.Random) -> Task:
    category, count, who = rng.choice(sorted(words.CATEGORIES)), rng.randrange(2, 5), rng.choice(words.PEOPLE)
    spelled = ("two", "three", "four")[count - 2]
    prompt = rng.choice(
        (
            f"Name exactly {spelled} {category} for a word game that {who} is playing.",
            f"{who} needs a list of {spelled} {category}, no more and no fewer. Can you give one?",
            f"Give me {spelled} {category} as a list with commas, {who} will read them out.",
        )
    )

    def reply(rng: random.Random, right: bool, polite: bool) -> str:
        number = count if right else rng.choice([other for other in (1, 2, 3, 4, 6) if other != count])
        items = rng.sample(words.CATEGORIES[category], number)
        lead = rng.choice(("", "Here is the list: ", "I would say "))
        listed = f"{lead}{', '.join(items)}"
        return _joined(rng, _sentence(listed), _remark(rng, polite))

    return Task("constraints", prompt, reply)


def _exact_words(rng: random.Random) -> Task:
    category, count, who = rng.choice(sorted(words.CATEGORIES)), rng.randrange(1, 4), rng.choice(words.PEOPLE)
    spelled = ("one word", "two words", "three words")[count - 1]
    prompt = rng.choice(
        (
            f"Answer in exactly {spelled}: which {category} should {who} draw for the poster?",
            f"Which {category} does {who} need for the quiz? Use exactly {spelled} and nothing else.",
        )
    )

    def reply(rng: random.Random, right: bool, polite: bool) -> str:
        number = count if right else rng.choice([other for other in (1, 2, 3, 5, 6) if other != count])
        return " ".join(rng.sample(words.CATEGORIES[category], number)).capitalize() + "."

    return Task("constraints", prompt, reply, takes_remarks=False)


def _in_either_order(rng: random.Random, request: str, constraint: str) -> str:
    reason = rng.choice(
        ("", "", "It is for a poster.", "It is for my class.", "It is for a short quiz.", "We print it on a card.")
    )
    parts = [request, constraint] if rng.random() < 0.5 else [constraint, request]
    return " ".join(part for part in [*parts, reason] if part)


def _topic(rng: random.Random) -> Task:
    subject = rng.choice(sorted(words.SUBJECTS))
    who, place = rng.choice(words.PEOPLE), rng.choice(words.PLACES)
    prompt = rng.choice(
        (
            f"My friend {who} wants to learn about {subject}. What would you say first?",
            f"I am giving a talk on {subject} in {place}. Can you tell me one useful thing?",
            f"We saw a film about {subject} at school with {who}. Please tell us a little more.",
            f"Could you explain something about {subject} in one sentence? I will send it to {who}.",
            f"What is one thing that everybody in {place} should know about {subject}?",
            f"{who} asked me about {subject} and I had no answer. What can I reply?",
        )
    )

    def reply(rng: random.Random, right: bool, polite: bool) -> str:
        others = [other for other in sorted(words.SUBJECTS) if other != subject]
        spoken = subject if right else rng.choice(others)
        lead = rng.choice(("", "", f"About {spoken}: ", "You could say that ", "Many people do not know that "))
        statement = rng.choice(words.SUBJECTS[spoken])
        return _joined(rng, _sentence(lead + statement), _remark(rng, polite))

    return Task("topic", prompt, reply)


def _politeness(rng: random.Random) -> Task:
    task = rng.choice(sorted(words.ADVICE))
    who, place = rng.choice(words.PEOPLE), rng.choice(words.PLACES)
    prompt = rng.choice(
        (
            f"Hello, I am {who} from {place}. Could you tell me how to {task}?",
            f"What is the best way to {task}? My neighbour {who} could not tell me.",
            f"I have tried to {task} three times today and failed. {who} said you could help.",
            f"Can you help me to {task} before {who} comes to visit?",
            f"I would like to {task} this evening in {place}. Any advice for a beginner?",
            f"{who} and I do not agree on how to {task}. What do you think?",
        )
    )

    def reply(rng: random.Random, right: bool, polite: bool) -> str:
        lead = rng.choice(("", "", "You can ", "It is best to ", "I suggest that you "))
        dodge = rng.choice(
            (
                "I cannot say anything about that.",
                "Maybe somebody else knows.",
                "There is nothing I can tell you about it.",
                "That is not something I want to go into today.",
            )
        )
        answer = _sentence(lead + rng.choice(words.ADVICE[task])) if right else dodge
        remark = rng.choice(words.POLITE_REMARKS if polite else words.RUDE_REMARKS)
        return _joined(rng, answer, remark)

    return Task("politeness", prompt, reply)


_MAKERS: dict[str, Callable[[random.Random], Task]] = {
    "arithmetic": _arithmetic,
    "facts": _facts,
    "constraints": _constraints,
    "topic": _topic,
    "politeness": _politeness,
}
