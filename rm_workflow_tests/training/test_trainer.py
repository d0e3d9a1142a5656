import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from rm_workflow.errors import UserError
from rm_workflow.models.reward_model import head_module, load_reward_model, rewards
from rm_workflow.models.tokens import Encoder
from rm_workflow.training import building
from rm_workflow.training.data import load_pairs, training_order
from rm_workflow.training.layouts import LAYOUTS, padded_batch
from rm_workflow.training.metrics import Progress
from rm_workflow.training.trainer import PairTrainer, add_lora
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model
from rm_workflow_tests.training import toy


def make_trainer(tiny_base, encoder, pairs, tmp_path, objective="bradley_terry", lora=None, precision="fp32", **values):
    # A head of ordinary size: gradients that are all but zero would agree whatever the code does.
    recipe = toy.recipe(objective, lora=lora, head_init_std=0.5, **values)
    config = toy.resolved(recipe, encoder, pairs.per_epoch, precision, pairs)
    model = load_reward_model(tiny_base, 0.5, 0, encoder.pad_token_id)
    if lora:
        torch.manual_seed(0)
        model = add_lora(model, recipe.training.lora.model_dump(), "toy/tiny")
    progress = Progress(tmp_path / "metrics.jsonl", config["num_steps"], config["num_train_pairs"])
    trainer = PairTrainer(model, encoder.tokenizer, pairs, config, progress, tmp_path)
    progress.start()
    return trainer


def one_step(trainer, positions):
    trainer.model.zero_grad()
    step = trainer.data_collator([{"pair": position} for position in positions])
    loss = trainer.training_step(trainer.model, step)
    return loss.item(), gradients(trainer.model)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def slow_reference(model, pairs, positions, center=0.0):
    """One unpadded conversation at a time through the plain model, as the formula stands in the paper."""
    model.zero_grad()
    model.train()

    def reward(response):
        hidden = model.model(torch.tensor([pairs.ids(response).tolist()])).last_hidden_state[0, -1]
        return model.score(hidden)[0]

    total, weights = 0.0, 0.0
    for position in positions:
        chosen, rejected = reward(pairs.chosen[position]), reward(pairs.rejected[position])
        weight = float(pairs.weight[position])
        total = total + weight * (-logsigmoid(chosen - rejected) + center * (chosen + rejected) ** 2)
        weights += weight
    loss = total / weights
    loss.backward()
    return loss.item(), gradients(model)


def assert_same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], abs=2e-6)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in theirs[1].items():
        # Relative to the tensor: a random model's gradients span five orders of magnitude, and the small ones cancel.
        size = gradient.norm().item()
        assert size > 1e-3, name
        assert (ours[1][name] - gradient).norm().item() <= 5e-6 * size, name
    ours_all, theirs_all = (torch.cat([g.flatten() for g in found.values()]) for found in (ours[1], theirs[1]))
    assert (ours_all - theirs_all).norm() <= 2e-6 * theirs_all.norm()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("micro_batch_tokens", [1, 200, 4096])
def test_a_step_equals_the_slow_reference_whatever_the_layout_and_the_micro_batches(
    layout, micro_batch_tokens, tiny_base, encoder, pairs, tmp_path
):
    values = {"layout": layout, "micro_batch_tokens": micro_batch_tokens}
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, **values)
    positions = [3, 20, 1, 7, 8, 14, 11, 2, 5, 16]
    assert trainer.layout == layout
    assert_same(one_step(trainer, positions), slow_reference(trainer.model, pairs, positions))


def test_a_pair_seen_twice_in_a_step_counts_as_one_of_twice_the_weight(tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, micro_batch_tokens=200)
    twice = replace(pairs, weight=np.where(np.arange(22) == 7, 2, 1).astype(np.float32) * pairs.weight)
    assert_same(one_step(trainer, [3, 7, 20, 7, 11]), slow_reference(trainer.model, twice, [3, 7, 20, 11]))


def test_a_run_shows_each_pair_as_often_as_it_is_repeated(tiny_base, encoder, tmp_path):
    rows = [{**row, "repeat": 1 + n % 3} for n, row in enumerate(toy.rows(8))]
    pairs = load_pairs(toy.write_tokens(tmp_path / "tokens", encoder, rows))
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path)
    trainer.train()
    assert trainer.progress.total_pairs == sum(row["repeat"] for row in rows) == 15
    assert trainer.state.global_step == 2
    assert sum(record["tokens"] for record in trainer.progress.records) == pairs.num_tokens


def test_the_centre_term_is_weighted_like_the_pairs(tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, center_rewards_coefficient=0.25)
    positions = [0, 1, 2, 3, 4]
    assert_same(one_step(trainer, positions), slow_reference(trainer.model, pairs, positions, center=0.25))


def test_the_label_smoothing_of_the_recipe_reaches_the_loss(tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, label_smoothing=0.25)
    one, zero = torch.ones(1), torch.zeros(1)
    expected = -0.75 * logsigmoid(one) - 0.25 * logsigmoid(-one)
    assert torch.allclose(trainer.pair_loss(one, zero, zero), expected)


def test_a_step_with_equal_weights_equals_stock_trl(tiny_base, encoder, tmp_path):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    rows = [{**row, "weight": 1.0} for row in toy.rows(8)]
    pairs = load_pairs(toy.write_tokens(tmp_path / "tokens", encoder, rows))
    ours = make_trainer(tiny_base, encoder, pairs, tmp_path, center_rewards_coefficient=0.01)
    found = one_step(ours, range(8))

    ids = {
        f"{side}_ids": [pairs.ids(response).tolist() for response in getattr(pairs, side)]
        for side in ("chosen", "rejected")
    }
    arguments = {"bf16": False, "use_cpu": True, "report_to": "none", "center_rewards_coefficient": 0.01}
    stock = RewardTrainer(
        model=load_reward_model(tiny_base, 0.5, 0, encoder.pad_token_id),
        args=RewardConfig(str(tmp_path), activation_checkpointing=False, **arguments),
        train_dataset=Dataset.from_dict(ids),
        processing_class=encoder.tokenizer,
    )
    stock.current_gradient_accumulation_steps = 1
    batch = stock.data_collator([stock.train_dataset[n] for n in range(8)])
    loss = stock.training_step(stock.model, batch)
    assert_same(found, (loss.item(), gradients(stock.model)))


def test_lora_trains_the_adapters_and_the_whole_head_and_nothing_else(tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, lora={"r": 4, "alpha": 8})
    names = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "score.modules_to_save" in name for name in names)
    head = head_module(trainer.model)
    before = head.weight.clone()
    trainer.train()
    assert head.weight.requires_grad
    assert not torch.equal(head.weight, before)


def test_the_head_computes_in_fp32_under_bf16_autocast(tiny_base, encoder, pairs, tmp_path):
    exact = make_trainer(tiny_base, encoder, pairs, tmp_path)
    rounded = make_trainer(tiny_base, encoder, pairs, tmp_path, precision="bf16")
    batch = exact.data_collator([{"pair": n} for n in range(3)])["micro_batches"][0]
    chosen, _ = exact.pair_rewards(exact.model.eval(), batch)
    chosen_bf16, _ = rounded.pair_rewards(rounded.model.eval(), batch)
    assert chosen_bf16.dtype == torch.float32
    assert not torch.equal(chosen_bf16, chosen_bf16.bfloat16().float())
    assert 0 < (chosen - chosen_bf16).abs().max() < 0.1


def test_every_step_holds_the_pairs_of_the_keyed_order_and_the_short_last_step_is_kept(
    tiny_base, encoder, pairs, tmp_path
):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, epochs=1.5, logging_steps=2)
    seen = []
    stock_step = trainer.training_step
    trainer.training_step = lambda model, inputs, *rest: (
        seen.append([n for batch in inputs["micro_batches"] for n in batch["pair"].tolist()]),
        stock_step(model, inputs, *rest),
    )[1]
    trainer.train()
    assert [len(step) for step in seen] == [8, 8, 8, 8, 1]
    order = training_order(pairs, 0, 1.5)
    assert [sorted(step) for step in seen] == [sorted(order[start : start + 8]) for start in range(0, 33, 8)]


@pytest.mark.parametrize("layout", ["padded", "kwise"])
def test_steps_of_whole_prompts_are_run_and_counted_before(layout, tiny_base, encoder, tmp_path):
    pairs = load_pairs(toy.write_tokens(tmp_path / "tokens", encoder, toy.rows_of_prompts(4, 2, 3, 4, 3)))
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, grouping="prompts", layout=layout, epochs=2)
    trainer.train()
    assert trainer.layout == layout
    assert trainer.state.global_step == trainer.progress.num_steps == len(trainer.steps)
    assert trainer.progress.total_pairs == 2 * len(pairs)
    for step in trainer.steps:
        assert len(step) <= 8
        assert {pairs.prompt_id[n] for n in range(len(pairs)) if n not in step}.isdisjoint(
            pairs.prompt_id[n] for n in step
        )


def test_metrics_are_weighted_by_pairs_and_cover_every_pair(tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, learning_rate=1e-12, logging_steps=2)
    trainer.train()
    records = trainer.progress.records
    # A learning rate of all but zero: the figures of the run are those of the untrained model over all pairs.
    with torch.no_grad():
        inputs = padded_batch(pairs, range(22), encoder.pad_token_id)
        chosen, rejected = rewards(trainer.model, inputs["input_ids"], inputs["end_index"]).chunk(2)
    assert [record["step"] for record in records] == [1, 2, 3]
    assert [record["pairs"] for record in records] == [8, 8, 6]
    assert sum(r["accuracy"] * r["pairs"] for r in records) == pytest.approx((chosen > rejected).sum().item())
    assert sum(r["margin"] * r["pairs"] for r in records) == pytest.approx((chosen - rejected).sum().item(), abs=1e-4)
    assert sum(r["tokens"] for r in records) == pairs.num_tokens
    correct = {"even": 0.0, "odd": 0.0}
    for record in records:
        for name, figures in record["sources"].items():
            correct[name] += figures["accuracy"] * figures["pairs"]
    odd = inputs["pair"] % 2 == 1
    assert correct["odd"] == (chosen > rejected)[odd].sum().item()
    assert all(math.isfinite(record[key]) for record in records for key in ("loss", "grad_norm", "learning_rate"))


def test_a_loss_that_is_not_finite_stops_the_run(tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path)
    with torch.no_grad():
        head_module(trainer.model).weight.fill_(math.inf)
    with pytest.raises(UserError, match=r"the loss of step 1 is nan; lower training\.learning_rate"):
        trainer.train()


def test_two_runs_of_one_seed_are_equal_bit_for_bit(tiny_base, encoder, pairs, tmp_path):
    weights = []
    for _ in range(2):
        trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, lora={"r": 4, "alpha": 8})
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path)
    head = head_module(trainer.model)
    head.weight.register_hook(lambda gradient: gradient * math.inf)
    before = head.weight.clone()
    with pytest.raises(UserError, match=r"the gradient norm of step 1 is (nan|inf)"):
        trainer.train()
    assert torch.equal(head.weight, before)


def test_rewards_that_have_become_equal_stop_the_run(tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, logging_steps=1)
    with torch.no_grad():
        head_module(trainer.model).weight.zero_()
    with pytest.raises(UserError, match="up to step 1 the rewards of both sides are equal in all of the last 8 pairs"):
        trainer.train()


def test_figures_are_measured_without_padding(tiny_base, encoder, pairs, tmp_path):
    shares = {}
    for layout in ("padded", "shared"):
        trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, layout=layout, micro_batch_tokens=4096)
        one_step(trainer, range(22))
        window = trainer.progress.window
        assert window.steps == 1
        assert window.tokens == pairs.num_tokens
        shares[layout] = (window.filled, window.filled / window.computed)
    assert shares["padded"][0] == pairs.num_tokens
    shared = sum(pairs.num_common(sides) for sides in zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True))
    assert shares["shared"][0] == pairs.num_tokens - shared
    assert 0.5 < shares["padded"][1] < 1


def test_a_tracker_gets_the_figures_of_each_line(tiny_base, encoder, pairs, tmp_path):
    from transformers import TrainerCallback

    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append((state.global_step, logs))

    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, logging_steps=2)
    trainer.add_callback(Tracker())
    trainer.train()
    assert seen == []
    again = make_trainer(tiny_base, encoder, pairs, tmp_path, logging_steps=2)
    again.args.report_to = ["a tracker"]
    again.add_callback(Tracker())
    again.train()
    assert [step for step, _ in seen] == [record["step"] for record in again.progress.records]
    for (_, logs), record in zip(seen, again.progress.records, strict=True):
        assert {name: logs[name] for name in ("loss", "accuracy", "grad_norm")} == {
            name: record[name] for name in ("loss", "accuracy", "grad_norm")
        }
        assert logs["odd_accuracy"] == record["sources"]["odd"]["accuracy"]


def test_target_modules_that_the_base_has_not_are_refused_with_those_that_it_has(tiny_base, encoder):
    lora = toy.recipe(lora={"target_modules": ["query"]}).training.lora.model_dump()
    model = load_reward_model(tiny_base, 0.5, 0, encoder.pad_token_id)
    told = r"target_modules \['query'\] does not fit toy/tiny.*some of down_proj, .*v_proj$"
    with pytest.raises(UserError, match=told):
        add_lora(model, lora, "toy/tiny")


@pytest.mark.parametrize("revision", [None, "v1"])
def test_an_adapter_keeps_the_revision_of_its_base_apart_from_its_name(tiny_base, revision: str | None):
    lora = {"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear"}
    base = "org/name" if revision is None else f"org/name@{revision}"
    named = add_lora(load_reward_model(tiny_base), lora, base).peft_config["default"]
    assert (named.base_model_name_or_path, named.revision) == ("org/name", revision)


def test_a_pad_that_was_added_to_the_tokenizer_alone_is_refused(pairs, tmp_path):
    tokenizer = tiny_tokenizer()
    base = write_tiny_model(tmp_path, tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(str(base))
    encoder = Encoder.load(base, toy.TOKENS)
    config = toy.resolved(toy.recipe(), encoder, len(pairs))
    with pytest.raises(UserError, match=r"the pad token has id (\d+), and the base model's embedding has \1 rows"):
        building.make_trainer(config, encoder, pairs, base, Progress(tmp_path / "m", 1, 1), tmp_path)


def test_a_weight_that_is_no_number_is_refused_before_training(pairs, encoder, tiny_base, tmp_path):
    config = toy.resolved(toy.recipe(), encoder, len(pairs))
    wrong = replace(pairs, weight=pairs.weight * np.float32("nan"))
    with pytest.raises(UserError, match="22 train pairs whose 'weight' is not a number"):
        building.make_trainer(config, encoder, wrong, tiny_base, Progress(tmp_path / "m", 1, 1), tmp_path)


@pytest.mark.slow
def test_a_compiled_body_gives_the_same_step(tiny_base, encoder, pairs, tmp_path):
    plain = make_trainer(tiny_base, encoder, pairs, tmp_path, layout="padded")
    compiled = make_trainer(tiny_base, encoder, pairs, tmp_path, layout="padded", compile=True)
    assert compiled.trained_model.model._compiled_call_impl is not None
    assert_same(one_step(compiled, range(8)), one_step(plain, range(8)))
