"""Best-of-N: how often is the solution right that a model picks among N candidates?

One row of RLHFlow's test sets (``RLHFlow/{Mistral,Deepseek}-{GSM8K,MATH500}-Test``, N = 1,024; or ``labels``)::

    {"prompt": "2 + 3?", "answers": ["Step 1: 2 + 3 = 5. ки\\nThe answer is: 5 ки", "The answer is: 6 ки"],
     "label": [1, 0]}

and one of OpenAI's rollouts on GSM8K (grade-school-math, example_model_solutions.jsonl), of four generators::

    {"question": "2 + 3?", "ground_truth": "2 + 3 = 5\\nA: 5",
     "6b_finetuning": {"is_correct": true, "solution": "2 + 3 = 5\\nA: 5"}, "6b_verification": {...}, ...}

whose solutions are written as RLHFlow's ORM data have them ("Step 1: 2 + 3 = 5 The answer is: 5").

One scored row; a candidate has ``score``, or ``step_scores``, one a step; ``length`` and ``generator`` are optional::

    {"problem": "7", "candidates": [{"answer": "5", "correct": true, "score": 1.5},
                                    {"answer": null, "correct": false, "score": -0.5}]}

Rules, each at n = 1, 2, 4, ... up to the least number of candidates of a problem, and at that number:

- ``pass``, ``best_of_n``: exact expectation over all subsets of n candidates; **tied scores share the mean of what they
  give**. ``majority``, ``weighted_majority``: mean of 400 seeded draws, or of all subsets where there are no more; a
  **tie goes to the class that is seen first**, in a draw in any of its orders, of all candidates in that of the file.
- ``pass_prefix``, ``best_of_n_prefix``, ``majority_prefix``: of the first n candidates, a tie to the first.
- A weight is sigmoid(score), or the score itself where it is a probability.
- Of step scores ``best_of_n``, ``best_of_n_prefix`` and ``weighted_majority`` are objects, a figure for each of the
  aggregators min, last, product and mean. The headline takes ``mean``, as RLHFlow's evaluator does.
- An answer is one class with those that are equal to it as stripped strings, or by math-verify. A null or empty answer
  forms no class. A class is right where its first candidate is.

Baselines at the largest n: ``majority``, ``longest`` (the longest solution), ``strongest_generator`` (the generator
that is right most often on these very problems: chosen in hindsight, which is in its favour).

Intervals: Wilson's bounds on the variance of a bootstrap over problems; differences are paired.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rm_workflow.catalog.models import Benchmark
from rm_workflow.evaluation import best_of_n as estimates
from rm_workflow.evaluation import items
from rm_workflow.evaluation.best_of_n import AGGREGATORS, DRAWS, NO_CLASS, SEED, Ballot, Resamples
from rm_workflow.evaluation.figures import OVERALL, Parts, part
from rm_workflow.evaluation.grading import EQUIVALENCES, STRING, classes_of, extract_answer
from rm_workflow.evaluation.items import FieldError, Item, Row, ScoredItem
from rm_workflow.evaluation.statistics import Floats, score_object
from rm_workflow.keys import content_id
from rm_workflow.preferences.adapters._steps import step_ends

Scores = dict[str, Any]

CHOSEN_FIRST = False  # the responses of an item stand as the file has them, right ones and wrong ones
LOGIT, PROBABILITY = SCALES = ("logit", "probability")
# The aggregator of the headline.
HEADLINE_AGGREGATOR = "mean"
ROLLOUT_SUFFIXES = ("_finetuning", "_verification")
OPTIONS: Mapping[str, Sequence[str]] = {"equivalence": EQUIVALENCES, "scores": SCALES}
SUBSET = "problems"
FINAL_LINE = "\nA: "
NOT_DISTINGUISHABLE = "not distinguishable"


def read_item_of(row: Row, benchmark: Benchmark) -> Item:
    """Read a problem with its candidates in one of the two schemas; ``step_separator`` tells where steps end.

    A separator that is a word is a mark and no part of the solution: it is cut out, with the white space before it.
    """
    candidates = _labelled_answers(row) if "answers" in row else _rollouts(row)
    prompt, texts, correct, generators = _capped(candidates, benchmark.max_candidates)
    cut = [without_marks(text, benchmark.step_separator) for text in texts]
    messages = [{"role": "user", "content": prompt}]
    responses = [text for text, _ in cut]
    meta: dict[str, Any] = {
        "id": content_id(messages),
        "answers": [extract_answer(text) for text in responses],
        "correct": correct,
        "lengths": [len(text) for text in responses],
    }
    if generators:
        meta["generators"] = generators
    step_ends = [ends for _, ends in cut] if benchmark.step_separator else None
    return Item(SUBSET, messages, responses, sum(correct), meta, step_ends=step_ends)


Candidates = tuple[str, list[str], list[bool], list[str] | None]  # problem, texts, right or wrong, generators


def _capped(candidates: Candidates, most: int | None) -> Candidates:
    """Return the first so many candidates by a hash of problem and text, in the order of the file."""
    prompt, texts, correct, generators = candidates
    if most is None or len(texts) <= most:
        return candidates
    seen: Counter[str] = Counter()
    drawn = []
    for text in texts:
        # Equal texts are drawn apart, so that what is kept is a sample of what the generator says.
        drawn.append(content_id(["max_candidates", prompt, text, seen[text]]))
        seen[text] += 1
    places = sorted(sorted(range(len(texts)), key=drawn.__getitem__)[:most])
    of_generators = [generators[place] for place in places] if generators else None
    return prompt, [texts[place] for place in places], [correct[place] for place in places], of_generators


def _labelled_answers(row: Row) -> Candidates:
    texts = items.texts(row, "answers")
    name = "labels" if "labels" in row else "label"
    labels = items.value(row, name)
    if not isinstance(labels, list) or len(labels) != len(texts):
        raise FieldError(f"field {name} must be a list with one label for each of {len(texts)} answers")
    correct = [is_right(label, f"{name}[{place}]") for place, label in enumerate(labels)]
    return items.text(row, "prompt"), texts, correct, None


def _rollouts(row: Row) -> Candidates:
    generators = [str(name) for name in row if str(name).endswith(ROLLOUT_SUFFIXES)]
    if not generators:
        raise FieldError(
            f"neither answers nor a field that ends in {' or '.join(ROLLOUT_SUFFIXES)} is there "
            f"(have: {', '.join(map(str, row))}); name a file of candidates"
        )
    texts, correct = [], []
    for name in generators:
        found = items.value(row, name)
        if not isinstance(found, dict):
            raise FieldError(f"field {name} must be an object with solution and is_correct")
        texts.append(as_orm_solution(items.text(found, "solution")))
        correct.append(is_right(items.value(found, "is_correct"), f"{name}.is_correct"))
    return items.text(row, "question"), texts, correct, generators


def as_orm_solution(text: str) -> str:
    """Return a rollout as RLHFlow writes solutions: a numbered step a line, then the answer.

    >>> as_orm_solution("2 + 3 = 5" + chr(10) + "A: 5")
    'Step 1: 2 + 3 = 5 The answer is: 5'
    """
    steps, mark, answer = text.rpartition(FINAL_LINE)
    if not mark or "\n" in answer:
        steps, answer = text, ""
    lines = [line.strip() for line in steps.split("\n") if line.strip()]
    numbered = "\n".join(f"Step {number}: {line}" for number, line in enumerate(lines, start=1))
    return f"{numbered} The answer is: {answer.strip()}" if mark and answer.strip() else numbered


def without_marks(text: str, separator: str | None) -> tuple[str, list[int]]:
    """Return a text without the marks between its steps, and where each step ends.

    >>> without_marks("Step 1: 2. ки" + chr(10) + "The answer is: 2 ки", "ки")
    ('Step 1: 2.\\nThe answer is: 2', [10, 27])
    """
    if not separator or not separator.strip():
        return text, step_ends(text, separator) or []
    pieces = [piece.rstrip() for piece in text.split(separator)]
    ends, length = [], 0
    for piece in pieces:
        length += len(piece)
        if piece.strip():
            ends.append(length)
    return "".join(pieces), ends


def scored_row(item: ScoredItem) -> dict[str, Any]:
    """Return the row of a score file, as ``aggregate`` reads it."""
    meta = item.meta
    candidates = [
        {"answer": answer, "correct": correct, **_scored(item, place), "length": length}
        for place, (answer, correct, length) in enumerate(
            zip(meta["answers"], meta["correct"], meta["lengths"], strict=True)
        )
    ]
    for candidate, generator in zip(candidates, meta.get("generators", ()), strict=False):
        candidate["generator"] = generator
    scale = {"scale": item.scale} if item.scale else {}
    return {"problem": meta["id"], **scale, "candidates": candidates}


def _scored(item: ScoredItem, place: int) -> dict[str, Any]:
    if item.step_scores is None:
        return {"score": item.scores[place]}
    return {"step_scores": item.step_scores[place]}


def aggregate(rows: Iterable[Row], equivalence: str = STRING, scores: str | None = None) -> Scores:
    """Compute all figures of best-of-N.

    Args:
        rows: ``{"problem", "candidates": [{"answer", "correct", "score" or "step_scores"}]}``.
        equivalence: by which answers are one class: ``string`` or ``math-verify``.
        scores: ``logit`` or ``probability``; None takes what the rows say in ``scale``, else logit.

    Returns:
        ``n`` (size -> figures), ``intervals`` (the same with ``ci_low``, ``ci_high`` in place of a figure), ``draws``
        and ``seed`` of the voting; ``nulls`` and ``against_nulls`` (score objects, paired differences with a verdict),
        ``over_optimisation`` (by aggregator, ``score`` without steps), ``best_of_n_score`` (the headline), ``counts``,
        ``grader`` (null where answers are compared as strings), ``warnings``.

    Raises:
        RowError: a candidate is not as above, or a row stands twice.
    """
    listed = list(rows)
    problems = items.parse_rows(listed, _parse)
    warnings: list[str] = [*items.check_repeats(listed, subset=None, identity="problem")]
    _check_alike(problems)
    scale = scores or problems[0].scale or LOGIT
    if scale == PROBABILITY:
        _check_probabilities(problems)
    ballots, grader = _ballots(problems, equivalence)
    least, most = (choose(len(problem.correct) for problem in problems) for choose in (min, max))
    sizes = estimates.subset_sizes(least)
    if least < most:
        warnings.append(f"problems have {least:,} to {most:,} candidates, so n goes up to {least:,}")
    mixed = sum(problem.num_mixed(ballot) for problem, ballot in zip(problems, ballots, strict=True))
    if mixed:
        warnings.append(
            f"{mixed:,} answers are marked right in one candidate and wrong in another; the first one counts"
        )
    values = _values(problems, ballots, sizes, scale)
    resamples = Resamples([problem.key for problem in problems])
    nulls = _nulls(problems, values)
    return {
        "n": _by_size(values, sizes, lambda column: float(column.mean())),
        "intervals": _by_size(values, sizes, lambda column: _bounds(resamples.interval(column))),
        "draws": DRAWS,
        "seed": SEED,
        "best_of_n_score": _headline(problems, values, resamples, least),
        "nulls": {name: _null_score(null, resamples) for name, null in nulls.items()},
        "against_nulls": _against(values, nulls, resamples),
        "over_optimisation": _over_optimisation(problems, values, sizes, resamples),
        "counts": _counts(problems, least, most),
        "scores": scale,
        "equivalence": equivalence,
        "grader": grader,
        "warnings": warnings,
    }


def headline(result: Scores) -> Scores | None:
    """Return the one score of a run: best of all candidates, by the mean of the steps' scores where steps have them."""
    found: Scores = result["best_of_n_score"]
    return found


def tables(result: Scores) -> Iterator[tuple[str, list[Scores]]]:
    """Yield (title, rows) of what a person sees: accuracy over n, the largest n with intervals, baselines, counts."""
    by_size = {size: dict(_flat(figures)) for size, figures in result["n"].items()}
    *_, most = by_size
    methods = list(by_size[most])
    yield (
        "accuracy over n, the number of candidates",
        [{"": method, **{size: figures[method] for size, figures in by_size.items()}} for method in methods],
    )
    intervals = dict(_flat(result["intervals"][most]))
    of_all = [
        {"": method, "score": by_size[most][method], **intervals[method], "n": result["counts"]["problems"]}
        for method in methods
    ]
    nulls = [
        {"": f"baseline: {name}", **{key: null[key] for key in of_all[0] if key}}
        for name, null in result["nulls"].items()
    ]
    yield f"{most} candidates, with 95 % intervals over problems", [*of_all, *nulls]
    yield "against the baselines, paired by problem", result["against_nulls"]
    counts = {**result["counts"], **{f"grader: {name}": value for name, value in (result["grader"] or {}).items()}}
    counts["generators"] = ", ".join(counts["generators"])
    told = {**counts, "answers compared by": result["equivalence"], "scores taken as": result["scores"]}
    yield "what was read", [{"": name.replace("_", " "), "value": value} for name, value in told.items() if value]


def _shown(score: Scores, columns: Iterable[str]) -> Scores:
    return {column: score[column] for column in columns if column in score}


def _flat(figures: Scores) -> Iterator[tuple[str, Any]]:
    """Yield (name of a method with its aggregator, value) of the figures, or intervals, at one n."""
    for figure, value in figures.items():
        if isinstance(value, dict) and AGGREGATORS[0] in value:
            yield from ((method_name(figure, aggregator), found) for aggregator, found in value.items())
        else:
            yield figure, value


def parts(rows: Iterable[Row]) -> Parts:
    """Return best of all candidates as one part, a problem a row."""
    problems = items.parse_rows(rows, _parse)
    _check_alike(problems)
    least = min(len(problem.correct) for problem in problems)
    name = _headline_name(problems)
    best = _chosen(problems, name, [least], estimates.expected_best)[:, 0]
    found = part(OVERALL, best, [problem.key for problem in problems])
    return Parts({OVERALL: found}, (), {OVERALL: 1.0})


@dataclass(frozen=True)
class _Problem:
    """A scored row as arrays; scores by the name of an aggregator, ``score`` where there are no steps."""

    key: str
    answers: list[str | None]
    correct: Floats
    scores: Mapping[str, Floats]
    scale: str | None
    num_without_steps: int = 0
    lengths: Floats | None = None
    generators: tuple[str, ...] | None = None

    def num_mixed(self, ballot: Ballot) -> int:
        """Return the number of classes of answers with right and wrong candidates."""
        voting = ballot.classes != NO_CLASS
        right = np.bincount(ballot.classes[voting], self.correct[voting], len(ballot.right))
        number = np.bincount(ballot.classes[voting], minlength=len(ballot.right))
        return int(((right > 0) & (right < number)).sum())


SCORE = "score"


def _parse(row: Row) -> _Problem:
    key = str(items.item_id(row, "problem"))
    candidates = items.value(row, "candidates")
    if not isinstance(candidates, list) or not candidates:
        raise FieldError("field candidates must be a list of at least one object")
    if not all(isinstance(candidate, dict) for candidate in candidates):
        raise FieldError("field candidates must hold objects with answer, correct and score")
    try:
        correct = [is_right(candidate["correct"], "correct") for candidate in candidates]
        answers = [_answer(candidate["answer"]) for candidate in candidates]
        scores, num_without_steps = _scores(candidates)
    except (FieldError, KeyError):
        # Told again, slowly, with the place of the first bad one.
        _refuse(candidates)
        raise
    lengths = [candidate.get("length") for candidate in candidates]
    generators = [candidate.get("generator") for candidate in candidates]
    return _Problem(
        key,
        answers,
        np.array(correct, dtype=np.float64),
        scores,
        _scale(row.get("scale")),
        num_without_steps,
        np.array(lengths, dtype=np.float64) if all(type(length) in (int, float) for length in lengths) else None,
        tuple(map(str, generators)) if all(generators) else None,
    )


def _refuse(candidates: Sequence[Row]) -> None:
    for place, candidate in enumerate(candidates):
        try:
            is_right(items.value(candidate, "correct"), "correct")
            _answer(items.value(candidate, "answer"))
            has_steps = "step_scores" in candidate
            items.value(candidate, "step_scores" if has_steps else SCORE)
            if has_steps != ("step_scores" in candidates[0]):
                raise FieldError("step_scores must stand in all candidates or in none")
            _scores([candidate])
        except FieldError as error:
            raise FieldError(f"candidate {place + 1}: {error}") from None


def is_right(label: Any, name: str) -> bool:
    """Return a label as a truth value: true, false, 1, 0, 1.0 and 0.0 are read."""
    if not isinstance(label, bool | int | float) or label not in (0, 1):
        raise FieldError(f"field {name} is {label!r}; a label is true or false, or 1 or 0")
    return bool(label)


def _answer(found: Any) -> str | None:
    """Return an answer as stripped text, None where there is none; a number is read as its text."""
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise FieldError(f"field answer is {str(found)[:60]}; it must be text, a number or null")
    return str(found).strip() or None


def _scores(candidates: Sequence[Row]) -> tuple[dict[str, Floats], int]:
    """Return the scores of candidates by aggregator, and how many of them have steps but no score of one."""
    if "step_scores" not in candidates[0]:
        return {SCORE: _finite([candidate[SCORE] for candidate in candidates], SCORE)}, 0
    steps = [candidate["step_scores"] for candidate in candidates]
    for found in steps:
        if not isinstance(found, list):
            raise FieldError(f"field step_scores is {str(found)[:60]}; it must be a list with a number for each step")
    lengths = np.array([len(found) for found in steps])
    flat = _finite([score for found in steps for score in found], "step_scores")
    by_name = {name: estimates.aggregated(flat, lengths, name) for name in AGGREGATORS}
    return by_name, int((lengths == 0).sum())


def _finite(scores: list[Any], name: str) -> Floats:
    """Return scores as numbers; the check of each one is needed only where one of them is not plain."""
    if set(map(type, scores)) <= {int, float}:
        found: Floats = np.array(scores, dtype=np.float64)
        if np.all(np.abs(found) <= items.LARGEST_SCORE):
            return found
    return np.array([items.finite(score, name) for score in scores])


def _scale(found: Any) -> str | None:
    if found is not None and found not in SCALES:
        raise FieldError(f"field scale is {found!r}; it is one of {' and '.join(SCALES)}")
    return None if found is None else str(found)


def _check_alike(problems: Sequence[_Problem]) -> None:
    """Refuse rows of which some have step scores and others have not, or of two scales."""
    first = problems[0]
    for index, problem in enumerate(problems):
        if problem.scores.keys() != first.scores.keys():
            raise items.RowError(index, "step_scores must stand in the candidates of all problems or of none")
        if problem.scale != first.scale:
            raise items.RowError(
                index, f"field scale is {problem.scale!r}, and {first.scale!r} before; score all alike"
            )


def _check_probabilities(problems: Sequence[_Problem]) -> None:
    for index, problem in enumerate(problems):
        for scores in problem.scores.values():
            wrong = np.flatnonzero((scores < 0) | (scores > 1))
            if len(wrong):
                place = int(wrong[0])
                told = f"its score {scores[place]:g} is no probability"
                raise items.RowError(index, f"candidate {place + 1}: {told}; leave out --scores probability")


def _ballots(problems: Sequence[_Problem], equivalence: str) -> tuple[list[Ballot], Scores | None]:
    """Return the votes of every problem, and what the grader did, None where answers are compared as strings."""
    found, grader = classes_of([problem.answers for problem in problems], equivalence)
    ballots = []
    for problem, numbers in zip(problems, found, strict=True):
        classes = np.array(numbers, dtype=np.int64)
        _, first = np.unique(classes[classes != NO_CLASS], return_index=True)
        ballots.append(Ballot(classes, problem.correct[classes != NO_CLASS][first], problem.key))
    return ballots, grader


@dataclass(frozen=True)
class _Group:
    """Problems with the same number of candidates."""

    problems: Sequence[_Problem]

    def correct(self) -> Floats:
        """Return shape [problems, N]."""
        return np.stack([problem.correct for problem in self.problems])

    def scores(self, name: str) -> Floats:
        """Return shape [problems, N]."""
        return np.stack([problem.scores[name] for problem in self.problems])


def _by_candidates(problems: Sequence[_Problem], compute: Callable[[_Group], Floats]) -> Floats:
    """Return what ``compute`` makes of problems with the same number of candidates, in the order of the problems."""
    places: dict[int, list[int]] = {}
    for place, problem in enumerate(problems):
        places.setdefault(len(problem.correct), []).append(place)
    found: Floats | None = None
    for same in places.values():
        computed = compute(_Group([problems[place] for place in same]))
        if found is None:
            found = np.empty((len(problems), *computed.shape[1:]))
        found[same] = computed
    assert found is not None, "there is a problem"
    return found


# (figure, aggregator or None where it has none) -> shape [problems, sizes]
Values = dict[tuple[str, str | None], Floats]


def _values(problems: Sequence[_Problem], ballots: Sequence[Ballot], sizes: Sequence[int], scale: str) -> Values:
    names = list(problems[0].scores)
    voted = _votes(problems, ballots, sizes, scale, names)
    found: Values = {
        ("pass", None): _by_candidates(problems, lambda group: estimates.pass_at(group.correct(), sizes)),
        ("majority", None): voted[:, 0],
    }
    for place, name in enumerate(names, start=1):
        key = None if name == SCORE else name
        found["weighted_majority", key] = voted[:, place]
        found["best_of_n", key] = _chosen(problems, name, sizes, estimates.expected_best)
        found["best_of_n_prefix", key] = _chosen(problems, name, sizes, estimates.best_of_prefix)
    prefixes = [estimates.vote_prefix(ballot, None, sizes) for ballot in ballots]
    found["majority_prefix", None] = np.stack(prefixes)
    found["pass_prefix", None] = _by_candidates(problems, lambda group: estimates.pass_prefix(group.correct(), sizes))
    if all(problem.lengths is not None for problem in problems):
        found["longest", None] = _by_candidates(problems, lambda group: _longest(group, sizes))
    return found


def _chosen(
    problems: Sequence[_Problem],
    name: str,
    sizes: Sequence[int],
    choose: Callable[[Floats, Floats, Sequence[int]], Floats],
) -> Floats:
    return _by_candidates(problems, lambda group: choose(group.scores(name), group.correct(), sizes))


def _longest(group: _Group, sizes: Sequence[int]) -> Floats:
    lengths = np.stack([problem.lengths for problem in group.problems if problem.lengths is not None])
    return estimates.expected_best(lengths, group.correct(), sizes)


def _votes(
    problems: Sequence[_Problem], ballots: Sequence[Ballot], sizes: Sequence[int], scale: str, names: Sequence[str]
) -> Floats:
    """Return majority and weighted majority by each score, shape [problems, 1 + scores, sizes]."""
    from scipy.special import expit

    voted = []
    for problem, ballot in zip(problems, ballots, strict=True):
        scores = [problem.scores[name] for name in names]
        weights = scores if scale == PROBABILITY else [expit(score) for score in scores]
        voted.append(estimates.vote(ballot, [None, *weights], sizes, DRAWS, SEED))
    return np.stack(voted)


def _by_size(values: Values, sizes: Sequence[int], shown: Callable[[Floats], Any]) -> Scores:
    result: Scores = {}
    for column, size in enumerate(sizes):
        of_size: Scores = result.setdefault(str(size), {})
        for (figure, aggregator), found in values.items():
            if aggregator is None:
                of_size[figure] = shown(found[:, column])
            else:
                of_size.setdefault(figure, {})[aggregator] = shown(found[:, column])
    return result


def _bounds(interval: tuple[float, float]) -> Scores:
    return {"ci_low": interval[0], "ci_high": interval[1]}


def _headline_name(problems: Sequence[_Problem]) -> str:
    return SCORE if SCORE in problems[0].scores else HEADLINE_AGGREGATOR


def _headline(problems: Sequence[_Problem], values: Values, resamples: Resamples, least: int) -> Scores:
    name = _headline_name(problems)
    best = values["best_of_n", None if name == SCORE else name][:, -1]
    ties = sum(estimates.num_tied_at_top(problem.scores[name][None]) for problem in problems)
    score = score_object(float(best.mean()), len(problems), resamples.interval(best), ties)
    return {**score, "candidates": least, "aggregator": None if name == SCORE else name}


def _nulls(problems: Sequence[_Problem], values: Values) -> dict[str, Floats]:
    """Return what baselines that ask no model give of all candidates, one value a problem."""
    found = {"majority": values["majority", None][:, -1]}
    if ("longest", None) in values:
        found["longest"] = values["longest", None][:, -1]
    strongest = _strongest_generator(problems)
    if strongest:
        found[f"strongest_generator: {strongest}"] = np.array(
            [_share_right(problem, strongest) for problem in problems]
        )
    return found


def _strongest_generator(problems: Sequence[_Problem]) -> str | None:
    """Return the generator, of those with a candidate for every problem, that is right most often."""
    in_all = set.intersection(*(set(problem.generators or ()) for problem in problems))
    shares = {name: sum(_share_right(problem, name) for problem in problems) for name in sorted(in_all)}
    return max(shares, key=shares.__getitem__, default=None)


def _share_right(problem: _Problem, generator: str) -> float:
    own = [name == generator for name in problem.generators or ()]
    return float(problem.correct[own].mean())


def _null_score(null: Floats, resamples: Resamples) -> Scores:
    return score_object(float(null.mean()), len(null), resamples.interval(null), 0)


def _against(values: Values, nulls: Mapping[str, Floats], resamples: Resamples) -> list[Scores]:
    """Return the difference of each method that reads scores to each baseline, at the largest n."""
    found = []
    for (figure, aggregator), value in values.items():
        if figure not in ("best_of_n", "weighted_majority"):
            continue
        for name, null in nulls.items():
            difference = value[:, -1] - null
            low, high = resamples.signed_interval(difference)
            verdict = "better" if low > 0 else "worse" if high < 0 else NOT_DISTINGUISHABLE
            found.append(
                {
                    "method": method_name(figure, aggregator),
                    "baseline": name,
                    "difference": float(difference.mean()),
                    "ci_low": low,
                    "ci_high": high,
                    "verdict": verdict,
                }
            )
    return found


def method_name(figure: str, aggregator: str | None) -> str:
    """Return a figure's name with its aggregator, as tables and plots show it."""
    return figure if aggregator is None else f"{figure}, {aggregator}"


def _over_optimisation(
    problems: Sequence[_Problem], values: Values, sizes: Sequence[int], resamples: Resamples
) -> Scores:
    """Return gold (right or wrong) against proxy (the score) over the KL of best-of-n.

    ``drop`` is how far gold has fallen from its peak at the largest n, null where it peaks there.
    """
    result: Scores = {}
    for name in problems[0].scores:
        gold = values["best_of_n", None if name == SCORE else name]
        proxy = _proxy(problems, name, sizes)
        peak = int(np.argmax(gold.mean(axis=0)))
        drop = gold[:, peak] - gold[:, -1]
        fallen = {"score": float(drop.mean()), **_bounds(resamples.signed_interval(drop))}
        result[name] = {
            "n": list(sizes),
            "kl": [estimates.kl_of_best_of(size) for size in sizes],
            "gold": gold.mean(axis=0).tolist(),
            "proxy": proxy.mean(axis=0).tolist(),
            "peak_n": sizes[peak],
            "drop": fallen if peak < len(sizes) - 1 else None,
        }
    return result


def _proxy(problems: Sequence[_Problem], name: str, sizes: Sequence[int]) -> Floats:
    """Return the expected highest score of n candidates."""

    def of_group(group: _Group) -> Floats:
        return estimates.expected_best(group.scores(name), group.scores(name), sizes)

    return _by_candidates(problems, of_group)


def _counts(problems: Sequence[_Problem], least: int, most: int) -> Scores:
    return {
        "problems": len(problems),
        "candidates": sum(len(problem.answers) for problem in problems),
        "least_candidates": least,
        "most_candidates": most,
        "without_answer": sum(answer is None for problem in problems for answer in problem.answers),
        "without_steps": sum(problem.num_without_steps for problem in problems),
        "problems_all_right": sum(bool(problem.correct.all()) for problem in problems),
        "problems_all_wrong": sum(not problem.correct.any() for problem in problems),
        "generators": dict(sorted(Counter(name for one in problems for name in one.generators or ()).items())),
    }
