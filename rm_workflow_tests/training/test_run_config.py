import json

import pytest

from rm_workflow.errors import UserError
from rm_workflow.training import run_config
from rm_workflow.training.data import load_pairs, training_steps
from rm_workflow_tests.training import toy

FACTS = {"train_per_epoch": 100, "test": 10, "train_tokens": 9000, "template_hash": "ab"}


def test_the_seed_recipe_takes_10050_steps():
    assert run_config.num_steps(160_800, 1, 16) == 10_050


def test_the_short_last_step_is_kept_and_epochs_follow_without_a_gap():
    assert run_config.num_steps(10, 1, 4) == 3
    assert run_config.num_steps(10, 2, 4) == 5


def test_decimal_epochs_are_exact():
    # 160,800 * 0.1 is 16,080.000000000002 in floating point.
    assert run_config.num_items(160_800, 0.1) == 16_080


def test_steps_of_whole_prompts_are_counted_on_the_pairs(encoder, tmp_path):
    keys = load_pairs(toy.write_tokens(tmp_path, encoder, toy.rows_of_prompts(4, 3, 4, 3, 2)))
    recipe = toy.recipe(grouping="prompts", epochs=3)
    config = toy.resolved(recipe, encoder, keys.per_epoch, keys=keys)
    assert config["num_steps"] == len(training_steps(keys, 0, 3, 8, "prompts"))
    assert config["num_steps"] > run_config.num_steps(keys.per_epoch, 3, 8)
    assert config["training"]["grouping"] == "prompts"


def test_a_run_config_is_read_back_and_has_the_fields_that_are_asked_for(encoder, tmp_path):
    config = toy.resolved(toy.recipe(), encoder, 22)
    assert run_config.read(toy.write_run_config(tmp_path / "run_config.json", config)) == config
    assert set(config) == run_config.FIELDS


def test_a_share_of_warmup_is_rounded_up_and_leaves_a_step_to_learn():
    assert run_config.warmup_steps(0.03, 10_050) == 302
    assert run_config.warmup_steps(100, 10_050) == 100
    assert run_config.warmup_steps(0.03, 1) == 0


def test_a_warmup_longer_than_the_run_is_noted():
    config = run_config.resolve(toy.recipe(warmup=100), FACTS, "cpu", "fp32")
    assert config["notes"] == ["the warm-up of 100 steps covers all 13 steps: the learning rate never reaches 0.005"]


def test_the_run_config_is_json_and_names_everything_a_checkpoint_needs():
    recipe = toy.recipe()
    config = run_config.resolve(recipe, FACTS, "cuda", "bf16")
    assert json.loads(json.dumps(config)) == config
    assert (config["num_steps"], config["device"], config["precision"]) == (13, "cuda", "bf16")
    assert config["token_recipe"] == recipe.tokens.model_dump()
    assert config["training"] == recipe.training.model_dump(exclude={"distributed"})


def test_how_a_run_is_made_and_told_is_kept_apart_from_what_is_trained():
    recipe = toy.recipe(micro_batch_tokens=77, logging_steps=3, layout="padded", weight_decay=0.5)
    config = run_config.resolve(recipe, FACTS, "cpu", "fp32")
    keyed = run_config.keyed(config)
    assert config["training"].keys() - keyed["training"].keys() == {
        *("layout", "logging_steps", "micro_batch_tokens", "report_to", "save"),
    }
    assert run_config.complete(keyed, recipe.training) == config
    # A run config that does not say it is run as by default.
    assert run_config.complete(keyed)["training"]["micro_batch_tokens"] == 4096
    assert run_config.complete(config) == config


def test_a_batch_unit_that_is_not_the_objective_s_is_refused():
    with pytest.raises(
        UserError, match="batch_unit is 'blocks', and an optimiser step of objective bradley_terry counts pairs"
    ):
        run_config.resolve(toy.recipe(batch_unit="blocks"), FACTS, "cpu", "fp32")


def test_tokens_without_a_test_pair_are_refused_before_training_where_test_is_to_be_scored():
    with pytest.raises(
        UserError, match=r"evaluate_on names 'test', and the tokens hold no test pair; set mixture\.split"
    ):
        run_config.resolve(toy.recipe(), {**FACTS, "test": 0}, "cpu", "fp32")


def test_tokens_without_a_train_pair_are_refused():
    with pytest.raises(UserError, match="no train pair"):
        run_config.resolve(toy.recipe(), {**FACTS, "train_per_epoch": 0}, "cpu", "fp32")
