"""The report: one HTML file with everything inside it, that opens without a network, on a phone and on paper.

Texts of data sets are shown in it. They are escaped by the template engine, and the file forbids the browser to run or
fetch anything at all (Content-Security-Policy), so that a text can only ever be read.
"""

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.evaluation.checkpoint_scores import scored_checkpoints
from rm_workflow.evaluation.standings import boards, listed_benchmarks, standings
from rm_workflow.reporting import model_card, plots, tables
from rm_workflow.reporting.evidence import TEST, Evidence
from rm_workflow.reporting.fit_for_use import fit_for_use
from rm_workflow.reporting.words import SHORT_VERSION, artifact_name, filled_columns, visible
from rm_workflow.reporting.worst_pairs import worst_pairs

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATE = "report.html.jinja"
LOOK = "look.css"
WORST_PAIRS = 10
# Benchmark -> the rows of ``standings``.
Leaderboard = Mapping[str, Sequence[Mapping[str, Any]]]
# Columns whose cells are numbers and stand right.
NUMERIC = ("n", "ties", "dropped", "left", "rows", "used", "train", "test", "score", "loss", "accuracy")


def report(checkpoints: Sequence[Evidence], leaderboard: Leaderboard | None = None) -> str:
    """Return the report on one or several checkpoints as HTML.

    Args:
        leaderboard: what ``leaderboard_rows`` returned, or nothing to leave the table out.
    """
    template = _environment().get_template(TEMPLATE)
    sections = [_section(evidence) for evidence in checkpoints]
    this = checkpoints[0].checkpoint.id if len(checkpoints) == 1 else ""
    shown = {
        heading: tables.leaderboard(same_items, this)
        for name, rows in (leaderboard or {}).items()
        for heading, same_items in boards(name, rows).items()
    }
    return template.render(checkpoints=sections, leaderboard=shown).lstrip()


def leaderboard_rows(store: ArtifactStore) -> Leaderboard:
    """Return the standings on each benchmark, ours and published ones, the test split first.

    Runs with a changed recipe (``--set``) are among them: each is a checkpoint of its own.
    """
    checkpoints = scored_checkpoints(store)
    return {name: standings(store, name, checkpoints) for name in listed_benchmarks(checkpoints)}


def num_scored(leaderboard: Leaderboard, asset: str) -> int:
    """Return how many checkpoints of one asset were scored."""
    ids = {row["checkpoint"] for rows in leaderboard.values() for row in rows if not row["published"]}
    return sum(name.partition("@")[0] == asset for name in ids)


def _section(evidence: Evidence) -> dict[str, Any]:
    fit = fit_for_use(evidence)
    parts = {name: tables.parts(evidence, name) for name in evidence.headlines}
    return {
        "name": evidence.name,
        "id": artifact_name(evidence.checkpoint.id, evidence.checkpoint.manifest.get("partition"), digits=None),
        "created": evidence.checkpoint.manifest["created"][:10],
        "description": evidence.about["description"],
        "base": evidence.about["base"],
        "headline": model_card.headline(evidence),
        "licences": evidence.about["licences"]["summary"],
        "summary": tables.summary(evidence),
        "scores": tables.scores(evidence),
        "scored_with": tables.scored_with(evidence),
        "missing": evidence.missing_subsets,
        "best_of_n": [
            {
                "name": name,
                "words": tables.best_of_n_words(evidence, name),
                "rows": tables.best_of_n(evidence, name),
                "against": tables.against_baselines(evidence, name),
                "image": model_card.curve_file(name).removesuffix(".png"),
            }
            for name in evidence.best_of_n
        ],
        "published": tables.published(evidence),
        "parts": {name: rows for name, rows in parts.items() if rows},
        "progress": tables.progress(evidence),
        "fit": {**fit, "uses": [{**use, "table": tables.fit_rules(use)} for use in fit["uses"]]},
        "calibration": tables.calibration(evidence),
        "length": tables.length(evidence),
        "probes": tables.probes(evidence),
        "why_not_probed": evidence.probes.get("why_none") or "",
        "without_prompt": tables.without_prompt(evidence),
        "examples": tables.examples(evidence),
        "by_source": tables.by_source(evidence),
        "funnel": tables.used_rules(tables.funnel(evidence)),
        "tokens": tables.tokens(evidence),
        "limitations": model_card.limitations(evidence),
        "worst": worst_pairs(evidence, WORST_PAIRS),
        "was_tested": TEST in evidence.headlines,
        "lineage": tables.lineage(evidence, SHORT_VERSION),
        "images": {name: _data_url(png) for name, png in _images(evidence).items()},
    }


def _images(evidence: Evidence) -> dict[str, bytes]:
    """Return the plots by what they show; one without figures is left out."""
    drawn = {name.removesuffix(".png"): png for name, png in model_card.card_plots(evidence).items()}
    mixture, histogram = evidence.first("mixture"), evidence.first("tokens").facts["histogram"]
    drawn["funnel"] = plots.funnel(_funnel_steps(mixture.facts), f"{mixture.asset}: kept and dropped by each rule")
    drawn["lengths"] = plots.histogram(
        histogram["edges"], histogram["counts"], "tokens", "tokens of prompt and reply, each response once"
    )
    margin = evidence.test_analysis("margin") or (evidence.details.get(TEST) or {}).get("margin_histogram")
    if margin:
        drawn["margins"] = plots.histogram(
            margin["edges"], margin["counts"], "reward of chosen - reward of rejected", "margins on the test split"
        )
    return drawn


def _funnel_steps(facts: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    left = facts["candidates"]
    steps = [("candidates", 0, left)]
    for rule, dropped in facts["dropped"].items():
        left -= dropped
        steps.append((rule, dropped, left))
    return steps


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _begin(text: str) -> str:
    """Return a text with a capital letter."""
    return text[:1].upper() + text[1:]


def look() -> str:
    """Return the style sheet, which the pages of ``rmw ui`` share."""
    return resources.files(__package__).joinpath(LOOK).read_text("utf-8").rstrip()


def environment_of(templates: Mapping[str, str]) -> "Environment":
    """Return the template engine: every text is escaped, and a name that is not there is an error."""
    from jinja2 import DictLoader, Environment, StrictUndefined

    environment = Environment(
        loader=DictLoader(dict(templates)),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible, columns=filled_columns, begin=_begin)
    return environment


def _environment() -> "Environment":
    from markupsafe import Markup

    environment = environment_of({TEMPLATE: resources.files(__package__).joinpath(TEMPLATE).read_text("utf-8")})
    environment.globals.update(numeric=NUMERIC, look=Markup(look()))
    return environment
