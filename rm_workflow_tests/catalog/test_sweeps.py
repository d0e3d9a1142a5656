"""The runs of a sweep: which there are, what they share, what they are called."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rm_workflow.assets.flow import Flow
from rm_workflow.catalog.loading import load_catalog, override_recipe
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.catalog.sweeps import (
    check_overrides,
    left_out,
    partition_keys,
    run_of,
    runs_of,
    shared_data,
    shared_tokens,
)
from rm_workflow.errors import UserError
from rm_workflow_tests.catalog.conftest import load_whole
from rm_workflow_tests.preferences.sources import settings

GRID = {
    "data": {"both": {}, "talks": {"pair_sets": ["sample_dialogues"]}},
    "learning_rate": [1e-6, 3e-6],
    "epochs": [1.0],
    "seed": [0, 1],
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return load_catalog(settings(tmp_path_factory.mktemp("home")))


def swept(catalog: Catalog, **sweep: Any) -> Recipe:
    promotion = {"metric": "sample_rewardbench"}
    return override_recipe(catalog.recipes["quickstart"], {"sweep": sweep, "promotion": promotion}, catalog)


def test_a_grid_has_every_combination_under_a_readable_key(catalog: Catalog):
    runs = runs_of(swept(catalog, **GRID))
    assert len(runs) == 2 * 2 * 1 * 2
    assert list(runs)[:2] == ["both__lr1e-6__ep1__s0", "both__lr1e-6__ep1__s1"]
    run = runs["talks__lr3e-6__ep1__s1"]
    assert run.mixture.pair_set_names == ["sample_dialogues"]
    assert (run.training.learning_rate, run.training.epochs, run.training.seed) == (3e-6, 1, 1)
    assert run.training.batch_size == catalog.recipes["quickstart"].training.batch_size


def test_what_several_runs_share_is_planned_once(catalog: Catalog):
    recipe = swept(catalog, **GRID)
    planned = Flow(catalog).of_recipe(recipe)
    by_kind: dict[str, list[str | None]] = {}
    for one in planned:
        by_kind.setdefault(one.kind, []).append(one.partition)
    assert [len(by_kind[kind]) for kind in ("mixture", "tokens", "overlap", "audit", "best")] == [2, 2, 2, 2, 1]
    assert [len(by_kind[kind]) for kind in ("run_config", "checkpoint", "scores", "card")] == [8, 8, 8, 8]
    assert {*by_kind["mixture"], *by_kind["tokens"]} == {None}
    assert sorted(by_kind["checkpoint"]) == sorted(runs_of(recipe))
    assert [data.data_name for data in shared_data(recipe)] == ["quickstart_both", "quickstart_talks"]


def test_a_mixture_that_a_sweep_leaves_as_it_is_has_the_content_of_the_recipe_without_it(catalog: Catalog):
    plain, run = catalog.recipes["quickstart"], run_of(swept(catalog, seed=[0, 1]), "s1")
    flow = Flow(catalog)
    assert flow.tokens(run).requested == flow.tokens(plain).requested
    assert flow.checkpoint(run).requested != flow.checkpoint(plain).requested


def test_bases_have_tokens_of_their_own(catalog: Catalog):
    recipe = swept(catalog, base={"small": "org/small", "large": "org/large"}, seed=[0])
    assert list(runs_of(recipe)) == ["small__s0", "large__s0"]
    assert [one.tokens_name for one in shared_tokens(recipe)] == ["quickstart_small", "quickstart_large"]
    assert len(shared_data(recipe)) == 1
    assert {"org/small", "org/large"} <= set(Flow(catalog.model_copy(update={"recipes": {"a": recipe}})).bases())


def test_a_list_of_runs_is_taken_as_it_stands(catalog: Catalog):
    recipe = swept(catalog, data=GRID["data"], runs=[{"data": "talks", "seed": 5}, {"learning_rate": 0.25}])
    assert list(runs_of(recipe)) == ["talks__s5", "lr0.25"]
    assert run_of(recipe, "lr0.25").mixture == catalog.recipes["quickstart"].mixture


def test_leave_one_out_trains_on_all_parts_and_without_each(catalog: Catalog):
    recipe = swept(catalog, data="leave_one_out")
    runs = runs_of(recipe)
    assert {key: run.mixture.pair_set_names for key, run in runs.items()} == {
        "all": ["sample_dialogues", "sample_ratings"],
        "without_sample_dialogues": ["sample_ratings"],
        "without_sample_ratings": ["sample_dialogues"],
    }
    assert [left_out(recipe, key) for key in runs] == [None, "sample_dialogues", "sample_ratings"]


def test_a_retired_key_is_kept_and_run_no_more(catalog: Catalog):
    recipe = swept(catalog, **GRID, retired=["both__lr1e-6__ep1__s0", "old__s7"])
    assert "both__lr1e-6__ep1__s0" not in runs_of(recipe)
    assert partition_keys(recipe)[-2:] == ["both__lr1e-6__ep1__s0", "old__s7"]
    with pytest.raises(UserError, match=r"run old__s7 is retired.*quickstart_checkpoint\[old__s7\]"):
        run_of(recipe, "old__s7")


def test_a_key_that_is_gone_names_the_nearest(catalog: Catalog):
    with pytest.raises(UserError, match="has no run both__lr1e-6__ep1__s2; did you mean"):
        run_of(swept(catalog, **GRID), "both__lr1e-6__ep1__s2")


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ({"retired": []}, "varies nothing"),
        ({"seed": [0, 0]}, "seed lists a value twice"),
        ({"runs": [{"seed": 0}], "seed": [1]}, "keep one of them"),
        ({"runs": [{"data": "gone"}]}, "names data 'gone'"),
        ({"runs": [{}]}, "names nothing of its own"),
        ({"learning_rate": [0.0]}, "sweep.learning_rate"),
        ({"seeds": [0]}, "unknown key 'sweep.seeds'"),
    ],
)
def test_a_wrong_sweep_is_one_sentence(catalog: Catalog, sweep: dict[str, Any], sentence: str):
    with pytest.raises(UserError, match=sentence):
        swept(catalog, **sweep)


def test_data_that_is_no_mixture_and_runs_that_are_the_same_are_told(catalog: Catalog):
    with pytest.raises(UserError, match=r"sweep\.data\.bad\.pair_sets.*mend it there"):
        runs_of(swept(catalog, data={"bad": {"pair_sets": 3}}))
    with pytest.raises(UserError, match="2 runs are called s1; list each once"):
        runs_of(swept(catalog, runs=[{"seed": 1}, {"seed": 1}]))


def test_runs_on_other_data_are_not_compared_on_their_own_test_splits(catalog: Catalog):
    quickstart = catalog.recipes["quickstart"]
    for data in ("leave_one_out", {"both": {}, "talks": {"pair_sets": ["sample_dialogues"]}}):
        with pytest.raises(UserError, match="so other test splits, which cannot be compared"):
            override_recipe(quickstart, {"sweep": {"data": data}}, catalog)
    fewer = {"all": {}, "few": {"sample": {"train_pairs": 8}}}
    assert override_recipe(quickstart, {"sweep": {"data": fewer}}, catalog).promoting


def test_a_sweep_without_a_run_and_a_mixture_of_one_part_are_refused(catalog: Catalog):
    with pytest.raises(UserError, match="retired names every run"):
        swept(catalog, seed=[0, 1], retired=["s0", "s1"])
    one_part = {"mixture.pair_sets": ["sample_dialogues"], "sweep": {"data": "leave_one_out"}}
    with pytest.raises(UserError, match="its mixture has one part"):
        override_recipe(
            catalog.recipes["quickstart"], {**one_part, "promotion": {"metric": "sample_rewardbench"}}, catalog
        )


def test_assets_that_would_be_called_alike_are_refused(tmp_path: Path):
    recipes = tmp_path / "catalog/recipes"
    recipes.mkdir(parents=True)
    known = replace(settings(tmp_path), catalog=tmp_path / "catalog")
    metric = "promotion: {metric: sample_rewardbench}\n"
    (recipes / "many.yaml").write_text(f"extends: quickstart\n{metric}sweep: {{data: {{few: {{}}}}}}\n")
    (recipes / "many_few.yaml").write_text("extends: quickstart\n")
    with pytest.raises(UserError, match=r"its assets many_few_\.\.\. are called like those of recipe 'many'"):
        load_whole(known)
    (recipes / "many_few.yaml").unlink()
    alike = "{data: {a: {}, a_b: {}}, base: {c: org/c, b_c: org/bc}}"
    (recipes / "many.yaml").write_text(f"extends: quickstart\n{metric}sweep: {alike}\n")
    with pytest.raises(UserError, match=r"its assets many_a_b_c_\.\.\. are called like those of recipe 'many'"):
        load_whole(known)


def test_what_each_run_has_for_itself_cannot_be_set_once(catalog: Catalog):
    recipe = swept(catalog, seed=[0, 1])
    check_overrides(recipe, {"training.learning_rate": 1.0})
    with pytest.raises(UserError, match=r"set sweep\.seed instead"):
        check_overrides(recipe, {"training.seed": 3})
    with pytest.raises(UserError, match=r"set sweep\.base instead"):
        check_overrides(swept(catalog, base={"small": "org/small"}), {"base": "org/other"})
    shares = swept(catalog, data={"few": {"split": {"test_share": 0.3}}, "more": {"split": {"test_share": 0.2}}})
    check_overrides(shares, {"mixture.split.by": "hash"})
    with pytest.raises(UserError, match=r"all data of the sweep have their own split\.test_share; change it under"):
        check_overrides(shares, {"mixture.split.test_share": 0.1})
    one_alone = swept(catalog, data={"as_is": {}, "more": {"split": {"test_share": 0.2}}})
    check_overrides(one_alone, {"mixture.split.test_share": 0.1})


def test_what_data_change_is_laid_over_the_mixture_key_by_key(catalog: Catalog):
    mixture = catalog.recipes["quickstart"].mixture
    changed = runs_of(swept(catalog, data={"more": {"split": {"test_share": 0.3}}}))["more"].mixture
    assert changed.split.test_share == 0.3 != mixture.split.test_share
    assert changed.split.by == mixture.split.by


def test_what_is_wrong_with_the_data_of_a_sweep_names_its_file(tmp_path: Path):
    recipes = tmp_path / "catalog/recipes"
    recipes.mkdir(parents=True)
    bad = "promotion: {metric: sample_rewardbench}\nsweep:\n  data: {bad: {pair_sets: 3}}\n"
    (recipes / "many.yaml").write_text(f"extends: quickstart\n{bad}")
    with pytest.raises(UserError, match=r"many\.yaml:3: recipe 'many': sweep\.data\.bad\.pair_sets"):
        load_whole(replace(settings(tmp_path), catalog=tmp_path / "catalog"))


def test_a_promotion_by_a_benchmark_that_is_not_scored_is_refused(catalog: Catalog):
    with pytest.raises(UserError, match="promotion looks at 'rewardbench2', which is not scored"):
        override_recipe(catalog.recipes["quickstart"], {"promotion": {"metric": "rewardbench2"}}, catalog)


def test_data_of_pair_sets_that_there_are_not_is_refused_where_it_is_loaded(catalog: Catalog):
    with pytest.raises(
        UserError, match=r"sweep\.data: pair set 'sample_dialogs' is not in the catalogue.*did you mean"
    ):
        swept(catalog, data={"typo": {"pair_sets": ["sample_dialogs"]}})


def test_a_word_for_the_data_that_is_misspelt_is_told_the_right_one(catalog: Catalog):
    with pytest.raises(UserError, match=r"sweep\.data is 'leave_one' \(did you mean 'leave_one_out'\?\)"):
        swept(catalog, data="leave_one")


@pytest.mark.parametrize(
    ("sweep", "path", "mend"),
    [
        ({"seed": [0, 1]}, "seed", r"'seed' cannot be set \(each run of the sweep has its own; set sweep\.seed\)"),
        ({"runs": [{"seed": 0}]}, "seed", r"'seed' cannot be set \(each run .* its own; set it under sweep\.runs\)"),
        ({"seed": [0, 1]}, "epochs", r"'epochs' cannot be set \(write training\.epochs\)"),
        ({"seed": [0, 1]}, "training.seed", r"has its own seed; set sweep\.seed instead"),
        ({"runs": [{"seed": 0}, {"seed": 1}]}, "training.seed", r"has its own seed; set it under sweep\.runs instead"),
    ],
)
def test_a_setting_that_each_run_has_for_itself_is_told_where_it_is_set(
    catalog: Catalog, sweep: dict[str, Any], path: str, mend: str
):
    recipe = swept(catalog, **sweep)
    with pytest.raises(UserError, match=mend):
        check_overrides(override_recipe(recipe, {path: 5}, catalog), {path: 5})


def test_benchmarks_are_compared_with_a_set_that_has_gold_labels_and_is_scored(catalog: Catalog):
    def asked(gold: str, evaluate_on: list[str]) -> Recipe:
        sweep = {"seed": [0, 1], "transfer": {"gold": gold}}
        overrides = {"sweep": sweep, "evaluation.evaluate_on": evaluate_on}
        return override_recipe(catalog.recipes["quickstart"], overrides, catalog)

    gold = "mistral_gsm8k_best_of_n"
    planned = Flow(catalog).of_recipe(asked(gold, ["test", gold]))
    (transfer,) = (one for one in planned if one.kind == "transfer")
    assert (transfer.asset, transfer.partition) == ("quickstart_transfer", None)
    assert {one.partition for one in transfer.upstream} == {"s0", "s1"}
    without = override_recipe(catalog.recipes["quickstart"], {"sweep": {"seed": [0, 1]}}, catalog)
    assert "transfer" not in {one.kind for one in Flow(catalog).of_recipe(without)}
    with pytest.raises(UserError, match=f"sweep.transfer.gold is '{gold}', which is not scored; add it to"):
        asked(gold, ["test"])
    with pytest.raises(UserError, match="which lists no other; add one"):
        asked("test", ["test"])
    with pytest.raises(UserError, match="'test' has no candidates with gold labels; name a"):
        asked("test", ["test", gold])
    capped = {"sweep": {"seed": [0], "transfer": {"gold": "mistral_math500_best_of_16", "n": 17}}}
    scored = {"evaluation.evaluate_on": ["test", "mistral_math500_best_of_16"]}
    with pytest.raises(UserError, match=r"sweep\.transfer\.n: 17 is more than the 16 candidates .*; lower it, or"):
        override_recipe(catalog.recipes["quickstart"], {**capped, **scored}, catalog)


def test_the_sweeps_of_the_catalogue_are_compared_with_gold_that_they_can_score(catalog: Catalog):
    compared = {name: recipe.sweep.transfer for name, recipe in catalog.recipes.items() if recipe.sweep}
    assert {name: (transfer.gold, transfer.n) for name, transfer in compared.items() if transfer} == {
        "rb2_llama31_70b": ("mistral_math500_best_of_16", 16),
        "rb2_llama31_70b_mini": ("gsm8k_rollouts_best_of_4_small", 4),
    }
