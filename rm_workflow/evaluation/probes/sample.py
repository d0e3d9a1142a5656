"""Which test pairs are probed, and their rewritten replies among the sequences that are scored.

Each reply is scored as it stands and after every rewrite, behind its own prompt; the prompt is computed once for all of
them. Nothing is cut: a conversation that is longer than the model's window is left out and counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rm_workflow.catalog.models import TEST, Probes
from rm_workflow.database import connect
from rm_workflow.evaluation.probes.rewrites import PROBES
from rm_workflow.keys import content_id
from rm_workflow.models.tokens import Message
from rm_workflow.preferences.sql import dict_rows, read_table
from rm_workflow.preferences.text import load_texts

if TYPE_CHECKING:
    from rm_workflow.evaluation.scorer import Scorer
    from rm_workflow.evaluation.sequences import Rows, Work

Side = Literal["chosen", "rejected"]
State = Literal["changed", "unchanged", "too_long"]
Keyed = Mapping[tuple[str, str, str], float]

SIDES: tuple[Side, ...] = ("chosen", "rejected")
PLAIN, PROMPT_ABLATED = "plain", "prompt_ablated"
# What stands in the place of a prompt that is taken away: templates want a user turn before a reply.
NO_PROMPT: Sequence[Message] = ({"role": "user", "content": ""},)

TEXTS = """
-- the prompt and both replies of some test pairs
select pairs.pair_id, prompts.messages, chosen.text as chosen, rejected.text as rejected
from {pairs} as pairs
join responses as chosen on chosen.response_id = pairs.chosen_id
join responses as rejected on rejected.response_id = pairs.rejected_id
join prompts on prompts.prompt_id = chosen.prompt_id
where list_contains($pair_ids, pairs.pair_id)
order by pairs.pair_id
"""


@dataclass(frozen=True)
class ProbedPair:
    """A test pair with its texts."""

    pair_id: str
    group_id: str
    messages: Sequence[Message]
    chosen: str
    rejected: str
    response_ids: Mapping[Side, str]

    def reply(self, side: Side) -> str:
        """Return the text of one side."""
        return self.chosen if side == "chosen" else self.rejected


@dataclass(frozen=True)
class Asked:
    """One reply under one probe.

    Attributes:
        probe: name of a rewrite, or ``prompt_ablated``.
        text: the reply as it is scored.
        state: whether the token ids are others than before, or the conversation is longer than the window.
    """

    probe: str
    pair: ProbedPair
    side: Side
    text: str
    state: State


@dataclass(frozen=True)
class Probing:
    """Everything that is asked of a model beside the test split and the benchmarks.

    Attributes:
        asked: by probe, then in the order of the sample.
        num_pairs: pairs whose replies are rewritten.
        why_none: why nothing is probed, or None.
    """

    asked: Sequence[Asked]
    num_pairs: int
    why_none: str | None = None


def sampled(rows: "Rows", num: int) -> "Rows":
    """Return so many test pairs, the first ones by a hash of their ids; a larger sample holds all of a smaller one."""
    return sorted(rows, key=lambda row: (content_id(["probes", row["pair_id"]]), row["pair_id"]))[:num]


def add_probes(
    of_test: "Rows", tokens: Path, raws: Sequence[Path], probes: Probes, scorer: "Scorer", work: "Work"
) -> Probing:
    """Put the rewritten replies of some test pairs into ``work``, and the replies of some without their prompt.

    Args:
        of_test: what ``test_rows`` returned; empty where the test split is not scored.
        tokens: folder of the tokens artifact of these pairs.
        raws: folders of the raw artifacts that hold their texts.
    """
    if not of_test:
        return Probing((), 0, "the test split is not scored (evaluation.evaluate_on does not name it)")
    if scorer.readout.kind != "end":
        return Probing((), 0, "a rewritten solution has other steps, so solutions are not probed")
    pairs = _pairs(sampled(of_test, max(probes.num_pairs, probes.num_prompt_ablated)), tokens, raws)
    rewritten = list(_rewritten(pairs[: probes.num_pairs], scorer, work))
    ablated = list(_without_prompt(pairs[: probes.num_prompt_ablated], scorer, work))
    why_none = None if rewritten or ablated else "evaluation.probes turns all probes off"
    return Probing([*rewritten, *ablated], len(pairs[: probes.num_pairs]), why_none)


def _pairs(rows: "Rows", tokens: Path, raws: Sequence[Path]) -> list[ProbedPair]:
    if not rows:
        return []
    with connect() as con:
        load_texts(con, raws)
        query = TEXTS.format(pairs=read_table(tokens / "pairs.parquet"))
        found = {row["pair_id"]: row for row in dict_rows(con, query, {"pair_ids": [row["pair_id"] for row in rows]})}
    return [_probed_pair(row, found[row["pair_id"]]) for row in rows]


def _probed_pair(row: Mapping[str, Any], texts: Mapping[str, Any]) -> ProbedPair:
    return ProbedPair(
        pair_id=row["pair_id"],
        group_id=row["group_id"],
        messages=texts["messages"],
        chosen=texts["chosen"],
        rejected=texts["rejected"],
        response_ids={side: row[f"{side}_id"] for side in SIDES},
    )


def _rewritten(pairs: Sequence[ProbedPair], scorer: "Scorer", work: "Work") -> Iterator[Asked]:
    """Put each reply into ``work`` as it stands and as it is rewritten, where that changes its token ids."""
    replies = [(pair, side) for pair in pairs for side in SIDES]
    plain = scorer.encoder.encode_many([(pair.messages, pair.reply(side)) for pair, side in replies])
    for (pair, side), encoded in zip(replies, plain, strict=True):
        if len(encoded.input_ids) <= scorer.window:
            work.add(PLAIN, pair.pair_id, side, encoded.input_ids)
    for probe in PROBES:
        texts = [probe.rewrite(pair.reply(side)) for pair, side in replies]
        conversations = [(pair.messages, text) for (pair, _), text in zip(replies, texts, strict=True)]
        found = scorer.encoder.encode_many(conversations)
        for (pair, side), text, before, after in zip(replies, texts, plain, found, strict=True):
            state: State = "unchanged" if after.input_ids == before.input_ids else "changed"
            if max(len(before.input_ids), len(after.input_ids)) > scorer.window:
                state = "too_long"
            if state == "changed":
                work.add(probe.name, pair.pair_id, side, after.input_ids)
            yield Asked(probe.name, pair, side, text, state)


def _without_prompt(pairs: Sequence[ProbedPair], scorer: "Scorer", work: "Work") -> Iterator[Asked]:
    """Put both replies of each pair into ``work`` behind an empty user turn."""
    replies = [(pair, side) for pair in pairs for side in SIDES]
    found = scorer.encoder.encode_many([(NO_PROMPT, pair.reply(side)) for pair, side in replies])
    for (pair, side), encoded in zip(replies, found, strict=True):
        state: State = "too_long" if len(encoded.input_ids) > scorer.window else "changed"
        if state == "changed":
            work.add(PROMPT_ABLATED, pair.pair_id, side, encoded.input_ids)
        yield Asked(PROMPT_ABLATED, pair, side, pair.reply(side), state)


@dataclass(frozen=True)
class Answered:
    """One reply under one probe with its rewards.

    Attributes:
        before: of the reply as it stands behind its prompt; None where it is longer than the window.
        after: of the reply under the probe; None where that is the same, or longer than the window.
    """

    asked: Asked
    before: float | None
    after: float | None


def answered(probing: Probing, probed: Keyed, of_test: Keyed) -> list[Answered]:
    """Return what was asked with the rewards.

    Args:
        probed: the scores of what ``add_probes`` put into the work.
        of_test: the scores of the test split, which stand for the replies with their prompt.
    """
    found = []
    for asked in probing.asked:
        pair, side = asked.pair, asked.side
        if asked.probe == PROMPT_ABLATED:
            before: float | None = of_test[TEST, pair.pair_id, pair.response_ids[side]]
        else:
            before = probed.get((PLAIN, pair.pair_id, side))
        found.append(Answered(asked, before, probed.get((asked.probe, pair.pair_id, side))))
    return found
