import re
from dataclasses import replace
from pathlib import Path

import pytest

from rm_workflow.catalog import loading
from rm_workflow.catalog.entries import add_entries
from rm_workflow.catalog.loading import (
    load_catalog,
    override_recipe,
    parse_overrides,
    recipe_with_origins,
    resolve_recipe,
)
from rm_workflow.catalog.models import Catalog, Mixture, Recipe, RuleUse
from rm_workflow.catalog.sweeps import run_of
from rm_workflow.catalog.yaml_file import Document, read_yaml
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings
from rm_workflow_tests.catalog.conftest import Write, load_whole

OWN = """\
base: org/model-1B
mixture:
  pair_sets: [sample_dialogues]
  split: {by: hash}
training:
  learning_rate: 1e-5
  batch_size: 16
"""


@pytest.fixture
def catalog(settings: Settings) -> Catalog:
    return load_catalog(settings)


# The built-in catalogue


def test_the_built_in_catalogue_loads_and_names_the_first_recipes(catalog: Catalog):
    assert {"quickstart", "qwen25_7b_hh_lora", "qwen25_7b_hh_lora_mini"} <= set(catalog.recipes)
    assert {"sample_rewardbench", "sample_rewardbench2"} <= set(catalog.benchmarks)
    assert catalog.refused == {}


def test_the_published_hh_rows_add_up_to_the_card(catalog: Catalog):
    hh = [source for name, source in catalog.sources.items() if name.startswith("hh_")]
    assert sum(source.published_rows["train"] for source in hh) == 160_800
    assert sum(source.published_rows["test"] for source in hh) == 8_552


def test_the_full_recipe_holds_what_the_card_states(catalog: Catalog):
    recipe = catalog.recipes["qwen25_7b_hh_lora"]
    training = recipe.training
    assert (recipe.base, recipe.tokens.max_length) == ("Qwen/Qwen2.5-7B-Instruct", 512)
    assert training.lora is not None
    assert (training.lora.r, training.lora.alpha) == (32, 64)
    assert (training.learning_rate, training.schedule, training.warmup) == (1e-5, "cosine", 100)
    assert (training.batch_size, training.micro_batch_tokens, training.epochs) == (16, 4096, 1)


def test_the_mini_recipe_inherits_all_but_what_it_states(catalog: Catalog):
    full, mini = catalog.recipes["qwen25_7b_hh_lora"], catalog.recipes["qwen25_7b_hh_lora_mini"]
    assert mini.extends == full.name
    assert mini.tokens == full.tokens
    assert mini.training.lora == full.training.lora
    assert mini.mixture.split == full.mixture.split
    assert "hh_harmless_base" not in mini.mixture.pair_set_names
    assert mini.mixture.sample is not None
    assert full.mixture.sample is None
    assert full.training.activation_checkpointing
    assert not mini.training.activation_checkpointing


def test_the_mixture_of_700k_pairs_is_the_seven_sources_and_ultrainteract(catalog: Catalog):
    seven, whole = catalog.recipes["rm_mistral_7b"], catalog.recipes["preference_700k"]
    assert whole.mixture.pair_set_names == [*seven.mixture.pair_set_names, "ultrainteract"]
    assert whole.base == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert (whole.training.learning_rate, whole.training.batch_size) == (2e-6, seven.training.batch_size)
    assert whole.published.num_pairs == 700_000
    assert whole.mixture.sample is None


def test_the_recipes_of_the_rewardbench_2_models_differ_in_their_data_only(catalog: Catalog):
    data = {"tulu": ["tulu3_70b_mixture"], "skywork": ["skywork_80k_v02"]}
    both = catalog.recipes["rb2_llama31_70b"]
    assert sorted(both.mixture.pair_set_names) == sorted([*data["tulu"], *data["skywork"]])
    assert (both.base, both.training.learning_rate, both.training.epochs) == (
        "meta-llama/Llama-3.1-70B-Instruct",
        3e-6,
        1,
    )
    for name, pair_sets in data.items():
        recipe = run_of(both, f"{name}__lr3e-6__ep1__s8")
        assert recipe.mixture.pair_set_names == pair_sets
        assert (recipe.base, recipe.tokens, recipe.training) == (both.base, both.tokens, both.training)


def test_every_built_in_recipe_fits_on_one_screen():
    recipes = Path(__file__).parents[2] / "rm_workflow" / "catalog" / "recipes"
    for path in recipes.glob("*.yaml"):
        assert len(path.read_text("utf-8").splitlines()) <= 50, path.name


# Extends


def test_a_child_merges_mappings_replaces_lists_and_removes_with_null(settings: Settings, write: Write):
    write(
        "catalog/recipes/child.yaml",
        "extends: quickstart\nmixture: {sample: null, decontaminate_against: []}\ntraining: {lora: {r: 8}, seed: 7}\n",
    )
    recipes = load_catalog(settings).recipes
    child, parent = recipes["child"], recipes["quickstart"]
    assert child.mixture.sample is None
    assert child.mixture.decontaminate_against == []
    assert child.mixture.pair_sets == parent.mixture.pair_sets
    assert child.training.lora is not None
    assert (child.training.lora.r, child.training.lora.alpha) == (8, 64)
    assert child.training.seed == 7
    assert child.training.learning_rate == parent.training.learning_rate
    assert (child.name, child.extends) == ("child", "quickstart")


def test_a_chain_of_three_recipes_resolves(settings: Settings, write: Write):
    write("catalog/recipes/a.yaml", "extends: quickstart\ntraining: {seed: 1, batch_size: 4}\n")
    write("catalog/recipes/b.yaml", "extends: a\ntraining: {seed: 2}\n")
    recipe = load_catalog(settings).recipes["b"]
    assert (recipe.training.seed, recipe.training.batch_size) == (2, 4)


def test_a_grandparent_value_that_the_parent_removed_stays_removed_in_a_recipe_file(settings: Settings, write: Write):
    write("catalog/recipes/a.yaml", "extends: quickstart\ntraining: {lora: null}\n")
    path = write("my.yaml", "extends: a\ntraining: {seed: 2}\n")
    assert resolve_recipe(load_catalog(settings), str(path)).training.lora is None
    assert load_catalog(settings, path).recipes["my"].training.lora is None


def test_a_cycle_is_refused_naming_the_chain(settings: Settings, write: Write):
    write("catalog/recipes/a.yaml", "description: x\nextends: b\n")
    write("catalog/recipes/b.yaml", "extends: c\n")
    write("catalog/recipes/c.yaml", "extends: a\n")
    with pytest.raises(UserError, match=r"catalog/recipes/c\.yaml:1: .*circle \(a -> b -> c -> a\)"):
        load_whole(settings)


def test_a_recipe_that_extends_its_own_name_is_refused(settings: Settings, write: Write):
    write("catalog/recipes/quickstart.yaml", "extends: quickstart\n")
    with pytest.raises(UserError, match=r"extends: .* the name of the recipe that it extends; rename"):
        load_whole(settings)


# The user's folder


def test_a_source_and_its_pair_set_that_are_added_meanwhile_are_read_whole(
    settings: Settings, write: Write, monkeypatch: pytest.MonkeyPatch
):
    write("catalog/sources.yaml", SOURCE)
    write("catalog/pair_sets.yaml", "a:\n  source: a\n  candidates: given\n  rules: []\n")
    source = {"path": "rows", "files": {"train": ["b.jsonl"]}, "adapter": "hh_transcript", "licence": "MIT"}
    pair_set = {"source": "b", "candidates": "given", "rules": []}
    reading: list[str] = []

    def read_then_add(path: Path, may_be_empty: bool = False) -> Document:
        document = read_yaml(path, may_be_empty)
        if path.parent == settings.catalog and not reading:
            reading.append(path.name)
            add_entries(path.parent, {"sources.yaml": {"b": source}, "pair_sets.yaml": {"b": pair_set}})
        return document

    monkeypatch.setattr(loading, "read_yaml", read_then_add)
    assert "b" in load_catalog(settings).sources
    assert reading == ["pair_sets.yaml"]


def test_an_entry_of_the_user_replaces_the_built_in_one_whole(settings: Settings, write: Write):
    write(
        "catalog/sources.yaml",
        "sample_dialogues: {path: mine, files: {train: [a.jsonl]}, adapter: hh_transcript, licence: MIT}\n",
    )
    write("catalog/pair_sets.yaml", "extra: {source: sample_dialogues, candidates: given, rules: [equal_score]}\n")
    write("catalog/recipes/quickstart.yaml", OWN)
    catalog = load_catalog(settings)
    assert catalog.sources["sample_dialogues"].licence == "MIT"
    assert catalog.sources["sample_dialogues"].description == ""
    assert "sample_ratings" in catalog.sources
    assert catalog.pair_sets["extra"].rules == [RuleUse(name="equal_score")]
    assert catalog.recipes["quickstart"].base == "org/model-1B"


def test_a_relative_path_is_relative_to_the_file_that_declares_it(settings: Settings, write: Write, tmp_path: Path):
    entry = "{{path: {path}, files: {{train: [a.jsonl]}}, adapter: hh_transcript, licence: MIT}}\n"
    write("catalog/sources.yaml", f"a: {entry.format(path='../rows')}b: {entry.format(path='/rows')}")
    sources = load_catalog(settings).sources
    assert sources["a"].path == str(tmp_path / "rows")
    assert sources["b"].path == "/rows"
    assert sources["sample_ratings"].path == "samples:ratings"


def test_a_misspelt_catalogue_file_is_not_passed_over(settings: Settings, write: Write):
    write("catalog/source.yaml", "a: {}\n")
    with pytest.raises(UserError, match=r"catalog/source\.yaml is not a file of a catalogue \(did you mean 'sources"):
        load_whole(settings)


def test_without_a_user_folder_only_the_built_in_catalogue_is_read(settings: Settings, catalog: Catalog):
    assert load_catalog(replace(settings, catalog=None)) == catalog


# Recipe files


def test_a_recipe_file_may_extend_a_recipe_of_the_catalogue(settings: Settings, write: Write, catalog: Catalog):
    path = write("my-own.yaml", "extends: quickstart\ntraining: {learning_rate: 2e-4}\n")
    recipe = resolve_recipe(catalog, str(path))
    assert (recipe.name, recipe.training.learning_rate) == ("my_own", 2e-4)
    assert load_catalog(settings, path).recipes["my_own"] == recipe


def test_dashes_and_underscores_in_a_recipe_name_are_the_same(catalog: Catalog):
    assert resolve_recipe(catalog, "qwen25-7b-hh-lora").name == "qwen25_7b_hh_lora"


def test_an_unknown_recipe_is_refused_with_the_nearest_name(catalog: Catalog):
    with pytest.raises(UserError, match=r"recipe 'quikstart' is not in the catalogue \(did you mean 'quickstart'\?\)"):
        resolve_recipe(catalog, "quikstart")
    with pytest.raises(UserError, match=r"absent\.yaml does not exist"):
        resolve_recipe(catalog, "./absent.yaml")


# Bad input: file, line, key path and the nearest name, in one sentence

SOURCE = "a:\n  path: rows\n  files: {train: [a.jsonl]}\n  adapter: hh_transcript\n  licence: MIT\n"

RESPONSES = ("  pair_sets: [sample_dialogues]", "  kind: responses\n  responses: [{{{}}}]")
BAD_RECIPES = [
    ("  batch_size: 16", "  batch_siez: 16", 7, "unknown key 'training.batch_siez' (did you mean 'batch_size'?)"),
    ("training:", "trainings:", 5, "unknown key 'trainings' (did you mean 'training'?)"),
    ("base: org/model-1B\n", "", 1, "key 'base' is missing"),
    ("  learning_rate: 1e-5\n", "", 5, "key 'training.learning_rate' is missing"),
    ("1e-5", "fast", 6, "training.learning_rate must be a number, not 'fast'"),
    ("1e-5", "'1e-5'", 6, "training.learning_rate must be a number, not '1e-5'"),
    ("1e-5", ".inf", 6, "training.learning_rate must be a finite number, not .inf"),
    ("1e-5", "-1e-5", 6, "training.learning_rate must be greater than 0, not -1.0e-05"),
    ("batch_size: 16", "batch_size: 16\n  epochs: 1e300", 8, "training.epochs must be less than or equal to 1000"),
    ("1e-5", "null", 6, "training.learning_rate must be a number, not null"),
    ("batch_size: 16", "batch_size: true", 7, "training.batch_size must be a whole number, not true"),
    ("batch_size: 16", "batch_size: 1.5", 7, "training.batch_size must be a whole number, not 1.5"),
    ("batch_size: 16", "batch_size: 0", 7, "training.batch_size must be greater than or equal to 1, not 0"),
    (
        "batch_size: 16",
        "batch_size: 16\n  lora: {r: 8, rank: 9}",
        8,
        "unknown key 'training.lora.rank' (known: alpha, dropout, r, target_modules)",
    ),
    (
        "batch_size: 16",
        "batch_size: 16\n  lora: {target_modules: 3}",
        8,
        "training.lora.target_modules must be text (in quotes if it looks like a number), not 3",
    ),
    ("batch_size: 16", "batch_size: 16\n  precision: bf-16", 8, "training.precision is 'bf-16' (did you mean 'bf16'?)"),
    ("batch_size: 16", "batch_size: 16\n  activation_checkpointing: yes", 8, "must be true or false, not 'yes'"),
    ("by: hash", "by: hashed", 4, "mixture.split.by is 'hashed' (did you mean 'hash'?)"),
    ("[sample_dialogues]", "sample_dialogues", 3, "mixture.pair_sets must be a list, not 'sample_dialogues'"),
    ("[sample_dialogues]", "[]", 2, "mixture: 'pair_sets' names nothing, and a mixture of kind pairs is made of it"),
    ("base: org/model-1B", "base: ''", 1, "base must be text that is not empty, not ''"),
    ("[sample_dialogues]", "[1]", 3, "mixture.pair_sets[0] must be text"),
    ("[sample_dialogues]", "[Bad-Name]", 3, "mixture.pair_sets[0] must be a name of 1 to 64 characters"),
    ("[sample_dialogues]", "[hh_helpful_base, hh_helpful_base]", 3, "hh_helpful_base is listed twice"),
    (
        "[sample_dialogues]",
        "\n    - hh_helpful_base\n    - sample_dialogues: {count: 20.0}",
        5,
        "mixture.pair_sets[1].sample_dialogues.count must be a whole number, not 20.0",
    ),
    (
        "[sample_dialogues]",
        "\n    - hh_helpful_base\n    - sample_dialogues:\n        repeat: 0",
        6,
        "mixture.pair_sets[1].sample_dialogues.repeat must be greater than or equal to 1, not 0",
    ),
    (
        "[sample_dialogues]",
        "[{sample_dialogues: {repeat: 1000000000000}}]",
        3,
        "mixture.pair_sets[0].sample_dialogues.repeat must be less than or equal to 1000, not 1000000000000",
    ),
    (
        "[sample_dialogues]",
        f"[{{sample_dialogues: {{count: {10**40}}}}}]",
        3,
        "a whole number has more than 18 digits; write a smaller one",
    ),
    (
        "[sample_dialogues]",
        "[{sample_dialogues: {fraction: 1.5}}]",
        3,
        "mixture.pair_sets[0].sample_dialogues.fraction must be less than or equal to 1, not 1.5",
    ),
    (
        "[sample_dialogues]",
        "[{sample_dialogues: {loss_weigth: 2}}]",
        3,
        "unknown key 'mixture.pair_sets[0].sample_dialogues.loss_weigth' (did you mean 'loss_weight'?)",
    ),
    (
        "[sample_dialogues]",
        "[{sample_dialogues: {count: 5, fraction: 0.5}}]",
        3,
        "mixture.pair_sets[0]: count and fraction both say how much of it is taken; write one of them",
    ),
    (
        "[sample_dialogues]",
        "[{sample_dialogues: 5}]",
        3,
        "mixture.pair_sets: write how much of sample_dialogues is taken by name, for instance "
        "sample_dialogues: {count: 2000}",
    ),
    (
        "[sample_dialogues]",
        "\n    - sample_dialogs: {count: 3}",
        4,
        "mixture.pair_sets[0]: pair set 'sample_dialogs' is not in the catalogue",
    ),
    ("[sample_dialogues]", "[hh_helpful_base, {hh_helpful_base: {count: 3}}]", 3, "hh_helpful_base is listed twice"),
    (
        "[sample_dialogues]",
        "\n    - sample_ratings\n    - sample_dialogs",
        5,
        "mixture.pair_sets[1]: pair set 'sample_dialogs' is not in the catalogue (did you mean 'sample_dialogues'?)",
    ),
    (
        "  split:",
        "  decontaminate_against: [sample_rewardbench3]\n  split:",
        4,
        "mixture.decontaminate_against[0]: benchmark 'sample_rewardbench3' is not in the catalogue "
        "(did you mean 'sample_rewardbench'?)",
    ),
    (
        "base:",
        "evaluation: {evaluate_on: [tset]}\nbase:",
        1,
        "evaluation.evaluate_on[0]: benchmark 'tset' is not in the catalogue (did you mean 'test'?)",
    ),
    (
        "base:",
        "extends: quickstrat\nbase:",
        1,
        "extends: recipe 'quickstrat' is not in the catalogue (did you mean 'quickstart'?)",
    ),
    ("base:", "extends: [quickstart]\nbase:", 1, "extends must be the name of one recipe, not [quickstart]"),
    ("base:", "name: 3\nbase:", 1, "name must be text, not 3"),
    ("base:", "name: Mine!\nbase:", 1, "a name is 1 to 64 characters of a-z, 0-9 and _"),
    ("base:", "objective: bradly_terry\nbase:", 1, "objective is 'bradly_terry' (did you mean 'bradley_terry'?)"),
    ("base:", "base: x\nbase:", 2, "key 'base' is written twice (first in line 1)"),
    ("{by: hash}", "{by: hash", 5, "not valid YAML"),
    (
        "  pair_sets: [sample_dialogues]",
        "  kind: responses",
        2,
        "mixture: 'responses' names nothing, and a mixture of kind",
    ),
    (
        "  split:",
        "  kind: responses\n  responses: [sample_ratings]\n  split:",
        2,
        "'pair_sets' is no part of a mixture",
    ),
    ("  split:", "  sample: {train_prompts: 5}\n  split:", 2, "'sample' of a mixture of kind pairs counts train_pairs"),
    ("  split:", "  sample: {seed: 5}\n  split:", 4, "mixture.sample: name exactly one of 'train_pairs' and"),
    (
        "base:",
        "objective: regression\nbase:",
        1,
        "objective regression is trained on labelled responses, and the mixture is",
    ),
    (
        RESPONSES[0],
        RESPONSES[1].format("sample_ratings: {ratings: [h, h]}"),
        4,
        "h is listed twice; list each name once",
    ),
]


@pytest.mark.parametrize(("old", "new", "line", "words"), BAD_RECIPES)
def test_a_bad_recipe_is_one_sentence_with_file_line_key_and_nearest_name(
    settings: Settings, write: Write, old, new, line, words
):
    assert old in OWN
    write("catalog/recipes/mine.yaml", OWN.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_whole(settings)
    message = str(caught.value)
    assert message.startswith(f"catalog/recipes/mine.yaml:{line}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("file", "text", "line", "words"),
    [
        ("sources.yaml", SOURCE + "  licens: MIT\n", 6, "source 'a': unknown key 'licens' (did you mean 'licence'?)"),
        ("sources.yaml", SOURCE + "  hub: a/b\n", 1, "source 'a': name exactly one of 'hub' (org/name) and 'path'"),
        ("sources.yaml", SOURCE.replace("[a.jsonl]", "a.jsonl"), 3, "files.train must be a list, not 'a.jsonl'"),
        ("sources.yaml", SOURCE.replace("[a.jsonl]", "[]"), 1, "'files' names no file"),
        ("sources.yaml", SOURCE + "  max_broken_share: 2\n", 6, "max_broken_share must be less than or equal to 1"),
        ("sources.yaml", "a:\n", 1, "entry 'a' must be a mapping (key: value), not null"),
        ("sources.yaml", SOURCE.replace("a:", "A-b:", 1), 1, "source 'A-b': a name is 1 to 64 characters"),
        (
            "pair_sets.yaml",
            "p:\n  source: sample_dialog\n  candidates: given\n  rules: []\n",
            2,
            "pair set 'p': source: source 'sample_dialog' is not in the catalogue (did you mean 'sample_dialogues'?)",
        ),
        (
            "pair_sets.yaml",
            "p:\n  source: sample_dialogues\n  candidates: pairs\n  rules: []\n",
            3,
            "candidates is 'pairs' (known: given, labelled, rated, rated_prompt, voted)",
        ),
        (
            "pair_sets.yaml",
            "p:\n  source: sample_ratings\n  candidates: rated\n  score: [style, helpfulness, style]\n  rules: []\n",
            4,
            "style is listed twice",
        ),
        (
            "pair_sets.yaml",
            "p:\n  source: sample_dialogues\n  candidates: given\n  rules:\n    - equal_score\n    - 3\n",
            6,
            "rules[1] must be",
        ),
        (
            "benchmarks.yaml",
            "test: {path: rows, files: {test: [a.jsonl]}, scoring: rewardbench, licence: MIT}\n",
            1,
            "the name means a mixture's own test split",
        ),
    ],
)
def test_a_bad_entry_is_one_sentence_with_file_line_and_key(settings: Settings, write: Write, file, text, line, words):
    write(f"catalog/{file}", text)
    with pytest.raises(UserError) as caught:
        load_whole(settings)
    message = str(caught.value)
    assert message.startswith(f"catalog/{file}:{line}: " if line else f"catalog/{file} ")
    assert words in message
    assert "\n" not in message


def test_an_error_in_an_inherited_value_names_the_parent_file(settings: Settings, write: Write):
    write("catalog/recipes/z_parent.yaml", OWN.replace("1e-5", "fast"))
    write("catalog/recipes/a_child.yaml", "extends: z_parent\n")
    with pytest.raises(
        UserError,
        match=r"'z_parent' cannot be used: catalog/recipes/z_parent\.yaml:6: .*training\.learning_rate must",
    ):
        load_whole(settings)


def test_a_null_for_a_key_that_does_not_exist_is_refused(settings: Settings, write: Write):
    write("catalog/recipes/mine.yaml", "extends: quickstart\nmixture:\n  sampel: null\n")
    with pytest.raises(UserError, match=r"mine\.yaml:3: .*unknown key 'mixture\.sampel' \(did you mean 'sample'\?\)"):
        load_whole(settings)


def test_two_files_with_one_recipe_name_are_refused(settings: Settings, write: Write):
    write("catalog/recipes/a.yaml", OWN)
    write("catalog/recipes/b.yaml", "name: a\n" + OWN)
    with pytest.raises(UserError, match=r"recipes/b\.yaml:1: recipe 'a' is in catalog/recipes/a\.yaml too"):
        load_whole(settings)


# A recipe with a mistake, beside others

MISTAKES = {
    "no YAML": ("mixture: {split\n", r"catalog/recipes/mine\.yaml:\d+: .*not valid YAML"),
    "a misspelt key": (OWN + "objektive: x\n", r"catalog/recipes/mine\.yaml:8: .*'objektive'"),
    "an unknown pair set": (OWN.replace("sample_dialogues", "mine"), r"mine\.yaml:3: .*pair set 'mine'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_recipe_with_a_mistake_stops_no_other(settings: Settings, write: Write, catalog: Catalog, mistake: str):
    text, sentence = MISTAKES[mistake]
    path = write("catalog/recipes/mine.yaml", text)
    write("catalog/recipes/yours.yaml", OWN)
    beside = load_catalog(settings)
    assert list(beside.refused) == ["mine"]
    assert re.search(sentence, beside.refused["mine"])
    path.unlink()
    assert beside.recipes == load_catalog(settings).recipes
    assert beside.recipes.keys() - catalog.recipes.keys() == {"yours"}
    with pytest.raises(UserError, match=sentence):
        resolve_recipe(beside, "mine")


def test_a_recipe_that_extends_one_with_a_mistake_is_refused_with_that_mistake(settings: Settings, write: Write):
    write("catalog/recipes/parent.yaml", "mixture: {split\n")
    write("catalog/recipes/child.yaml", "extends: parent\n")
    refused = load_catalog(settings).refused
    assert list(refused) == ["child", "parent"]
    assert refused["child"].startswith("catalog/recipes/child.yaml:1: ")
    assert f"recipe 'parent' cannot be used: {refused['parent']}" in refused["child"]
    outside = write("outside.yaml", "extends: parent\n")
    with pytest.raises(UserError, match=r"outside\.yaml:1: .*recipe 'parent' cannot be used: catalog/recipes/parent"):
        resolve_recipe(load_catalog(settings), str(outside))


def test_a_mistake_of_a_parent_is_told_of_its_child_with_both_names(settings: Settings, write: Write):
    write("catalog/recipes/parent.yaml", OWN + "objektive: x\n")
    write("catalog/recipes/child.yaml", "base: org/other\nextends: parent\n")
    write("catalog/recipes/own.yaml", "extends: parent\nobjektive: null\n")
    catalog = load_catalog(settings)
    assert catalog.refused["parent"].startswith("catalog/recipes/parent.yaml:8: recipe 'parent': ")
    assert catalog.refused["child"] == (
        "catalog/recipes/child.yaml:2: recipe 'child': extends: recipe 'parent' cannot be used: "
        + catalog.refused["parent"]
    )
    assert "own" in catalog.recipes, "a child may mend its parent"


def test_a_file_that_cannot_be_read_stops_no_other_that_bears_its_name(settings: Settings, write: Write):
    write("catalog/recipes/mine.yaml", "mixture: {split\n")
    for file in ("before", "other"):
        path = write(f"catalog/recipes/{file}.yaml", f"name: mine\n{OWN}")
        catalog = load_catalog(settings)
        assert "mine" in catalog.recipes
        assert catalog.refused.keys() == {"mine.yaml"}
        assert catalog.refused["mine.yaml"].startswith("catalog/recipes/mine.yaml:")
        path.unlink()


def test_an_own_recipe_with_a_mistake_is_not_replaced_by_the_built_in_one(settings: Settings, write: Write):
    write("catalog/recipes/quickstart.yaml", "mixture: {split\n")
    catalog = load_catalog(settings)
    assert "quickstart" not in catalog.recipes
    assert "quickstart" in catalog.refused


# Overrides


def test_overrides_change_what_they_name_and_nothing_else(catalog: Catalog):
    recipe = catalog.recipes["quickstart"]
    values = parse_overrides(["training.learning_rate=1e-5", "mixture.sample.train_pairs=30", "training.lora=null"])
    changed = override_recipe(recipe, values, catalog)
    assert changed.training.learning_rate == 1e-5
    assert changed.mixture.sample is not None
    assert changed.mixture.sample.train_pairs == 30
    assert changed.training.lora is None
    assert recipe.training.lora is not None
    untouched = {"learning_rate", "lora"}
    assert changed.training.model_dump(exclude=untouched) == recipe.training.model_dump(exclude=untouched)
    assert (changed.name, changed.extends) == (recipe.name, recipe.extends)


def test_without_values_the_recipe_is_the_same(catalog: Catalog):
    assert override_recipe(catalog.recipes["quickstart"], {}) is catalog.recipes["quickstart"]


def test_an_override_may_fill_a_mapping_that_was_absent(catalog: Catalog):
    changed = override_recipe(catalog.recipes["qwen25_7b_hh_lora"], {"mixture.sample.train_pairs": 5})
    assert changed.mixture.sample is not None


def test_parts_of_pair_sets_may_be_set_and_are_written_as_people_write_them(catalog: Catalog, settings: Settings):
    values = parse_overrides(["mixture.pair_sets=[sample_ratings, {sample_dialogues: {count: 20, loss_weight: 2}}]"])
    recipe = override_recipe(catalog.recipes["quickstart"], values, catalog)
    first, second = recipe.mixture.pair_sets
    assert (first.name, first.count, first.repeat, first.loss_weight) == ("sample_ratings", None, 1, 1.0)
    assert (second.name, second.count, second.fraction, second.loss_weight) == ("sample_dialogues", 20, None, 2.0)
    written = ["sample_ratings", {"sample_dialogues": {"count": 20, "loss_weight": 2.0}}]
    assert recipe.mixture.model_dump(mode="json")["pair_sets"] == written
    assert override_recipe(recipe, {"training.seed": 3}).mixture == recipe.mixture
    assert "pair_sets: [sample_ratings, {sample_dialogues: {count: 20, loss_weight: 2.0}}]" in recipe_with_origins(
        settings, "quickstart", values
    )


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        (
            "mixture.pair_sets=[{sample_ratings: {count: 0}}]",
            "mixture.pair_sets[0].sample_ratings.count must be greater",
        ),
        ("training.learning_rte=1", "'training.learning_rte' cannot be set (did you mean 'learning_rate'?)"),
        ("training.lr=1", "'training.lr' cannot be set (did you mean 'learning_rate'?)"),
        ("trainign.seed=1", "'trainign' cannot be set (did you mean 'training'?)"),
        ("seed=5", "'seed' cannot be set (write training.seed)"),
        ("pair_sets=[x]", "'pair_sets' cannot be set (write mixture.pair_sets)"),
        ("name=other", "'name' cannot be set"),
        ("extends=other", "'extends' cannot be set"),
        ("mixture.pair_sets.0=x", "'mixture.pair_sets' has no keys of its own; set it whole"),
        ("training.seed.deeper=1", "'training.seed' has no keys of its own"),
        ("training.learning_rate=fast", "training.learning_rate must be a number, not 'fast'"),
        ("training.batch_size=null", "key 'training.batch_size' is missing"),
        ("training.lora={rank: 3}", "unknown key 'training.lora.rank'"),
        ("mixture.pair_sets=[nope]", "pair set 'nope' is not in the catalogue"),
        ("evaluation.evaluate_on=[tset]", "benchmark 'tset' is not in the catalogue (did you mean 'test'?)"),
        ("evaluation.probes.num_pairs=-1", "evaluation.probes.num_pairs: must lie between 0 and 100000, not -1"),
        ("evaluation.probes.num_pairs=many", "evaluation.probes.num_pairs must be a whole number, not 'many'"),
        ("evaluation.probes=0", "evaluation.probes must be"),
        ("training.seed", "write it as path=value"),
        ("=3", "write it as path=value"),
        ("training.seed=[1", "not valid YAML"),
    ],
)
def test_a_bad_override_is_one_sentence_that_repeats_it(catalog: Catalog, assignment, words):
    with pytest.raises(UserError) as caught:
        override_recipe(catalog.recipes["quickstart"], parse_overrides([assignment]), catalog)
    message = str(caught.value)
    assert message.startswith("--set " + assignment.split("=")[0])
    assert words in message
    assert "\n" not in message


def test_one_path_set_twice_is_refused():
    with pytest.raises(UserError, match=r"training\.seed is set twice"):
        parse_overrides(["training.seed=1", "training.seed=2"])


# Origins


def _origin(text: str, key: str) -> str:
    line = next(line for line in text.splitlines() if re.match(rf" *{key}:", line))
    return line.split("  # ")[-1]


def test_every_line_of_the_resolved_recipe_says_where_it_came_from(settings: Settings, write: Write):
    write("catalog/recipes/child.yaml", "extends: quickstart\ntraining:\n  epochs: 2\n  lora: null\n")
    text = recipe_with_origins(settings, "child", {"training.batch_size": 4})
    assert text.startswith("# child extends quickstart\n")
    assert all("  # " in line for line in text.splitlines()[1:])
    assert _origin(text, "epochs") == "catalog/recipes/child.yaml:3"
    assert _origin(text, "lora") == "catalog/recipes/child.yaml:4"
    assert _origin(text, "learning_rate").startswith("rm_workflow/catalog/recipes/quickstart.yaml:")
    assert _origin(text, "batch_size") == "--set training.batch_size=4"
    assert _origin(text, "weight_decay") == "default"
    assert _origin(text, "name") == "catalog/recipes/child.yaml"


@pytest.mark.parametrize("name", ["quickstart", "qwen25_7b_hh_lora", "qwen25_7b_hh_lora_mini"])
def test_the_resolved_text_is_a_recipe_with_the_same_meaning(settings: Settings, write: Write, name, catalog: Catalog):
    path = write("resolved.yaml", recipe_with_origins(settings, name))
    read = Recipe.model_validate(read_yaml(path).data)
    assert read == catalog.recipes[name].model_copy(update={"extends": None})


def test_a_recipe_file_has_origins_too(settings: Settings, write: Write):
    write("my.yaml", "extends: quickstart\ntraining: {epochs: 5}\n")
    assert _origin(recipe_with_origins(settings, "./my.yaml"), "epochs") == "my.yaml:2"


@pytest.mark.parametrize(
    ("objective", "use", "training", "words"),
    [
        (
            "bradley_terry",
            "sample_solutions",
            {},
            "objective bradley_terry is trained on pairs, and the mixture is of resp",
        ),
        (
            "plackett_luce",
            "sample_solutions",
            {},
            "plackett_luce needs ratings, and mixture.responses names none of source",
        ),
        ("scalar_orm", {"sample_ratings": {"ratings": ["h"]}}, {}, "objective scalar_orm needs outcome labels"),
        (
            "scalar_orm",
            "sample_solutions",
            {"label_smoothing": 0.1},
            "training.label_smoothing is for objectives on pairs",
        ),
        ("scalar_orm", "sample_solutions", {"attribute_weights": {"h": 1.0}}, "attribute_weights is for regression"),
        (
            "regression",
            {"sample_ratings": {"ratings": ["h", "c"]}},
            {"attribute_weights": {"h": 1.0}},
            r"attribute_weights must name the ratings of the mixture \(c, h\), each once, and names h",
        ),
        (
            "regression",
            {"sample_ratings": {"ratings": ["h"]}},
            {"attribute_weights": {"h": 0.0}},
            "attribute_weights are all 0",
        ),
    ],
)
def test_an_objective_and_the_labels_of_its_mixture_must_fit(objective, use, training, words):
    mixture = {"kind": "responses", "responses": [use], "split": {"by": "native"}}
    values = {"learning_rate": 1e-4, "batch_size": 8, **training}
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate(
            {"name": "mine", "base": "b", "objective": objective, "mixture": mixture, "training": values}
        )


@pytest.mark.parametrize(
    ("objective", "mixture", "words"),
    [
        ("generative_prm", {"kind": "responses", "responses": ["a"]}, "trained on step labels, .* of responses; set"),
        ("token_prm", {"pair_sets": ["a"]}, "trained on step labels, and the mixture is of pairs"),
        ("generative_orm", {"kind": "trajectories", "trajectories": ["a"]}, "trained on labelled responses"),
        ("bradley_terry", {"kind": "trajectories", "trajectories": ["a"]}, "trained on pairs, .* of trajectories"),
        ("generative_prm", {"kind": "trajectories", "responses": ["a"]}, "'trajectories' names nothing"),
        (
            "generative_prm",
            {"kind": "trajectories", "trajectories": ["a"], "pair_sets": ["b"]},
            "'pair_sets' is no part of a mixture of kind trajectories",
        ),
        ("generative_prm", {"kind": "trajectories", "trajectories": ["a", {"a": {}}]}, "a is listed twice"),
        (
            "generative_prm",
            {"kind": "trajectories", "trajectories": ["a"], "sample": {"train_pairs": 5}},
            "of kind trajectories counts train_prompts",
        ),
    ],
)
def test_an_objective_and_the_kind_of_its_mixture_must_fit(objective: str, mixture: dict, words: str):
    recipe = {"name": "mine", "base": "b", "objective": objective, "mixture": {**mixture, "split": {"by": "native"}}}
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate({**recipe, "training": {"learning_rate": 1e-4, "batch_size": 8}})


@pytest.mark.parametrize(
    ("sources", "annotation", "words"),
    [
        (["annotation"], None, "takes the source 'annotation', and nothing says what that is; set annotation"),
        (["a"], {}, "annotation makes labels that the mixture does not take"),
        (["annotation"], {"prompt": "Solve it."}, r"the prompt does not hold \{problem\}"),
        (["annotation"], {"endpoint": "localhost:8000"}, "endpoint"),
        (["annotation"], {"temperature": 0.0}, "temperature"),
    ],
)
def test_an_annotation_and_the_mixture_that_takes_it_must_fit(sources: list, annotation: dict | None, words: str):
    mixture = {"kind": "trajectories", "trajectories": sources, "split": {"by": "native"}}
    recipe = {"name": "mine", "base": "b", "objective": "generative_prm", "mixture": mixture}
    recipe["training"] = {"learning_rate": 1e-4, "batch_size": 8}
    if annotation is not None:
        recipe["annotation"] = {"problems": "gsm8k", "generator": "g", **annotation}
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate(recipe)


def test_problems_of_an_annotation_that_are_not_in_the_catalogue_are_named(settings: Settings, write: Write):
    mixture = OWN.replace("  pair_sets: [sample_dialogues]", "  kind: responses\n  responses: [annotation]")
    write(
        "catalog/recipes/mine.yaml",
        f"objective: generative_orm\nannotation: {{problems: gsm8, generator: g}}\n{mixture}",
    )
    with pytest.raises(UserError, match=r"mine\.yaml:2: .*annotation\.problems: source 'gsm8' is not in .*'gsm8k'"):
        load_whole(settings)


def test_a_source_of_trajectories_is_written_back_as_people_write_it():
    uses = ["a", {"b": {"labels": "soft", "repeat": 2}}, {"c": {"neutral": "drop_step"}}]
    mixture = Mixture(kind="trajectories", trajectories=uses, split={"by": "native"})
    assert mixture.model_dump(mode="json")["trajectories"] == uses


def test_a_benchmark_of_problems_alone_cannot_be_scored_on(settings: Settings, write: Write):
    write("catalog/recipes/mine.yaml", OWN + "evaluation: {evaluate_on: [test, gsm8k_problems]}\n")
    with pytest.raises(UserError, match=r"mine\.yaml:8: .*'gsm8k_problems' holds problems .*decontaminate_against"):
        load_whole(settings)


@pytest.mark.parametrize("changed", ["mixture.split.test_share=0.3", "mixture.split.seed=1"])
def test_candidates_must_be_of_the_problems_that_the_split_holds_out(catalog: Catalog, changed: str):
    orm, prm = catalog.recipes["orm_llama31_8b_mini"], catalog.recipes["prm_llama31_8b_mini"]
    with pytest.raises(UserError, match=r"test problems of the split \{by: hash, test_share: 0.2.* the same rows"):
        override_recipe(orm, parse_overrides([changed]), catalog)
    # Of a recipe that trains on other rows every split is as good.
    assert override_recipe(prm, parse_overrides([changed]), catalog).mixture.split != prm.mixture.split


def test_the_maths_recipes_hold_what_card_and_script_state(catalog: Catalog):
    orm, prm = catalog.recipes["orm_llama31_8b"], catalog.recipes["prm_llama31_8b"]
    for recipe in (orm, prm):
        training = recipe.training
        assert (recipe.base, recipe.tokens.max_length) == ("meta-llama/Llama-3.1-8B-Instruct", 8192)
        assert (training.learning_rate, training.schedule, training.warmup) == (2e-6, "cosine", 0.05)
        assert (training.batch_size, training.batch_unit, training.epochs) == (32, "blocks", 1)
        assert (training.lora, recipe.mixture.leak_policy) == (None, "drop")
        mini = catalog.recipes[f"{recipe.name}_mini"]
        assert mini.extends == recipe.name
        assert mini.objective == recipe.objective
        assert (mini.mixture.split.by, mini.mixture.leak_policy) == ("hash", "mark")
    assert orm.mixture.labelled_sources == ["mistral_orm"]
    assert prm.mixture.labelled_sources == ["mistral_prm"]


def test_a_ranking_has_no_weight_per_prompt():
    use = {"sample_ratings": {"ratings": ["h"]}}
    mixture = {"kind": "responses", "responses": [use], "split": {"by": "native"}, "weight_per_prompt": True}
    values = {"learning_rate": 1e-4, "batch_size": 8}
    with pytest.raises(ValueError, match="plackett_luce counts each prompt once"):
        Recipe.model_validate(
            {"name": "mine", "base": "b", "objective": "plackett_luce", "mixture": mixture, "training": values}
        )


def test_a_source_of_responses_that_is_not_in_the_catalogue_is_named(settings: Settings, write: Write):
    text = OWN.replace(RESPONSES[0], RESPONSES[1].format("sample_raitings: {ratings: [h]}"))
    write("catalog/recipes/mine.yaml", f"objective: regression\n{text}")
    with pytest.raises(
        UserError, match=r"mine\.yaml:\d: .*mixture\.responses\[0\]: source 'sample_raitings' is not in"
    ):
        load_whole(settings)
