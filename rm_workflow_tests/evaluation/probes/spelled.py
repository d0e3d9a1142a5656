"""Probes without a model: token ids are characters, and a reward is any function of prompt and reply."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.catalog.models import TEST, Probes
from rm_workflow.evaluation.probes.effects import effects_of
from rm_workflow.evaluation.probes.sample import Answered, Probing, add_probes, answered
from rm_workflow.evaluation.sequences import Work
from rm_workflow.keys import content_id
from rm_workflow.models.readout import END
from rm_workflow.models.tokens import Encoded, Message
from rm_workflow_tests.preferences.raw_tables import RawRow, given, write_raw

Reward = Callable[[str, str], float]
BREAK = "\x00"
PAIRS = [
    given(
        f"What is river {n}?",
        f"River {n} is often long, for example. It's in the north of land {n}." + " Really." * (n % 4),
        f"I don't know river {n}, maybe." + " Ask me later!" * (n % 3),
        n,
    )
    for n in range(30)
]


class SpellingScorer:
    """Stands for a scorer; one token a character, white space at the ends of a reply taken off where it is told to."""

    def __init__(self, window: int = 100_000, trims: bool = False) -> None:
        self.window, self.trims = window, trims
        self.encoder = self
        self.readout = END

    def encode_many(self, conversations: Sequence[tuple[Sequence[Message], str]]) -> list[Encoded]:
        spelled = [
            "".join(message["content"] for message in messages) + BREAK + (reply.strip() if self.trims else reply)
            for messages, reply in conversations
        ]
        return [Encoded([ord(character) for character in text], text.index(BREAK), True) for text in spelled]


def read(input_ids: Sequence[int]) -> tuple[str, str]:
    """Return prompt and reply."""
    prompt, _, reply = "".join(map(chr, input_ids)).partition(BREAK)
    return prompt, reply


def write_folders(folder: Path, rows: Sequence[RawRow] = PAIRS, rows_a_group: int = 2) -> tuple[Path, Path]:
    """Write the pairs of a tokens artifact, of which so many share a group, and the raw folder with their texts."""
    raw = write_raw(folder / "raw", rows)
    pairs = [
        {
            "pair_id": content_id(["pair", row.row]),
            "group_id": f"g{place // rows_a_group}",
            **{f"{shown.slot}_id": content_id([row.prompt_id, shown.text]) for shown in row.responses},
        }
        for place, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(pairs), folder / "pairs.parquet")
    return folder, raw


class Probed:
    """The pairs of a folder under a reward.

    Attributes:
        rewards: of each pair as it stands, chosen and rejected.
    """

    def __init__(
        self,
        folder: Path,
        reward: Reward,
        num_pairs: int = 30,
        num_prompt_ablated: int = 30,
        scorer: SpellingScorer | None = None,
    ) -> None:
        self.pairs: list[dict[str, Any]] = pq.read_table(folder / "pairs.parquet").to_pylist()
        texts = {row["response_id"]: row for row in pq.read_table(folder / "raw/responses.parquet").to_pylist()}
        prompts = {row["prompt_id"]: row for row in pq.read_table(folder / "raw/prompts.parquet").to_pylist()}
        of_test = {}
        for pair in self.pairs:
            for side in ("chosen", "rejected"):
                response = texts[pair[f"{side}_id"]]
                prompt = prompts[response["prompt_id"]]["messages"][0]["content"]
                of_test[TEST, pair["pair_id"], pair[f"{side}_id"]] = reward(prompt, response["text"])
        self.rewards = np.array(list(of_test.values()))
        self.work = Work()
        probes = Probes(num_pairs=num_pairs, num_prompt_ablated=num_prompt_ablated)
        self.probing: Probing = add_probes(
            self.pairs,
            folder,
            [folder / "raw"],
            probes,
            scorer or SpellingScorer(),  # type: ignore[arg-type]
            self.work,
        )
        scored = [reward(*read(input_ids)) for input_ids in self.work.sequences]
        probed = dict(zip(self.work.keys, scored, strict=True))
        self.answered: list[Answered] = answered(self.probing, probed, of_test)
        self.effects: dict[str, Any] = effects_of(self.probing, self.answered, float(np.std(self.rewards)))

    @property
    def rewrites(self) -> dict[str, dict[str, Any]]:
        return self.effects["probes"]
