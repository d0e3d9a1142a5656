"""The test pairs on which a reward model is most wrong, with their texts."""

from pathlib import Path
from typing import Any

from rm_workflow.database import connect
from rm_workflow.preferences.sql import dict_rows, read_table
from rm_workflow.preferences.text import conversation, load_texts
from rm_workflow.reporting.evidence import Evidence

TEXT_CHARACTERS = 600
TEST_PAIRS = "test_pairs.parquet"

WORST = """
    -- the test pairs whose rejected reply has the higher reward, by how much, with their texts
    with wrong as (
        select pair_id, score_chosen, score_rejected, score_chosen - score_rejected as margin
        from {scored}
        where score_chosen < score_rejected
        order by margin, pair_id
        limit $n
    )
    select
        wrong.*, pairs.source, prompts.messages as prompt, chosen.text as chosen, rejected.text as rejected
    from wrong
    join {pairs} as pairs using (pair_id)
    join responses as chosen on chosen.response_id = pairs.chosen_id
    join responses as rejected on rejected.response_id = pairs.rejected_id
    join prompts on prompts.prompt_id = chosen.prompt_id
    order by margin, pair_id
"""


def worst_pairs(evidence: Evidence, n: int) -> list[dict[str, Any]]:
    """Return up to ``n`` test pairs with the lowest margin below 0: pair_id, source, texts, scores, margin.

    Texts are cut to 600 characters; of a prompt the end is kept, which asks the question.
    """
    scored = evidence.scores.folder / TEST_PAIRS if evidence.scores else Path()
    if not scored.is_file():
        return []
    pairs = read_table(evidence.first("tokens").folder / "pairs.parquet")
    with connect() as con:
        load_texts(con, evidence.raw_folders)
        rows = dict_rows(con, WORST.format(scored=read_table(scored), pairs=pairs), {"n": n})
    return [
        {
            **row,
            "prompt": cut_left(conversation(row["prompt"])),
            "chosen": cut(row["chosen"]),
            "rejected": cut(row["rejected"]),
        }
        for row in rows
    ]


def cut(text: str) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1] + "…"


def cut_left(text: str) -> str:
    """Return the end of a text."""
    return text if len(text) <= TEXT_CHARACTERS else "…" + text[1 - TEXT_CHARACTERS :]
