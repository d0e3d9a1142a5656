"""The card of a model that was trained elsewhere: what its files say, what was measured here, and what is not known.

``model_card.py`` writes that of a checkpoint that was made here, of which everything is recorded.
"""

import json
from typing import Any

from rm_workflow.artifacts import Artifact
from rm_workflow.catalog import licences
from rm_workflow.models.base import hub_name
from rm_workflow.reporting.evidence import CHECKPOINT_SUFFIX, without_folder
from rm_workflow.reporting.model_card import markdown_table
from rm_workflow.reporting.words import fraction, interval, number, visible

NOT_KNOWN = "unknown"
DATA_UNKNOWN = (
    "Trained elsewhere: its data are unknown, and so is whether they hold items of a benchmark (contamination: "
    "unknown). Nothing is recorded of its training."
)


def imported_card(checkpoint: Artifact, scores: Artifact | None) -> str:
    """Return the card as Markdown with its YAML block.

    Args:
        checkpoint: that ``rmw import`` published.
        scores: of this very checkpoint, where it was scored here.
    """
    from huggingface_hub import ModelCard, ModelCardData

    facts = checkpoint.facts
    name = checkpoint.asset.removesuffix(CHECKPOINT_SUFFIX)
    base = without_folder(facts["base"])
    data = ModelCardData(
        license=facts.get("licence"),
        base_model=hub_name(facts["base"]),
        library_name="transformers",
        tags=["reward-model", "rm-workflow"],
        model_name=name,
    )
    recipe = json.loads(checkpoint.file("model/token_recipe.json").read_text("utf-8"))
    known = {
        "checkpoint": checkpoint.id,
        "imported from": without_folder(facts["imported_from"]),
        "base model": base,
        "licence of the model": facts.get("licence") or f"{NOT_KNOWN}: its files do not say",
        "licence of the base model": licences.base_terms(facts["base"])[0],
        "objective": facts["objective"] or NOT_KNOWN,
        "token recipe": f"{facts['token_recipe_origin']}; template {facts['template_hash'][:12]}, at most "
        f"{recipe['max_length']:,} tokens",
    }
    parts = [
        f"# {name}",
        "A reward model that was imported into rm_workflow.",
        markdown_table([{"what": what, "value": value} for what, value in known.items()]),
        "## Scores",
        markdown_table(_scores(scores)) if scores else "No scores of it are stored here; `rmw evaluate` computes some.",
        "## Limitations",
        DATA_UNKNOWN,
        "Rewards have no zero and no unit: they rank replies to one prompt and cannot be compared across models.",
        "## Files",
        markdown_table(
            [{"file": file["name"], "sha256": file["sha256"]} for file in checkpoint.manifest["external_files"]]
        ),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + visible("\n\n".join(parts)) + "\n"))


def _scores(scores: Artifact) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": name,
            "score": fraction(one["score"]),
            "95 % interval": interval(one),
            "n": number(one["n"]),
            "train data": NOT_KNOWN,
        }
        for name, one in scores.facts["scores"].items()
    ]
