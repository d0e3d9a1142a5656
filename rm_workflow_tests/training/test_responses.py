"""Labelled responses: tokens with their labels, items of each objective, and one step of each against its formula."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid

from rm_workflow.catalog.loading import load_catalog, override_recipe
from rm_workflow.catalog.models import Mixture, Recipe, Source, Split, TokenRecipe
from rm_workflow.errors import UserError
from rm_workflow.models import attention
from rm_workflow.models.reward_model import head_module, load_reward_model, widen_head
from rm_workflow.preferences.raw import build_raw
from rm_workflow.preferences.response_mixture import ResponsePart, build_response_mixture
from rm_workflow.settings import Settings
from rm_workflow.training import canaries, proving, run_config
from rm_workflow.training.metrics import Progress
from rm_workflow.training.response_tokens import build_response_tokens
from rm_workflow.training.response_trainer import ResponseTrainer
from rm_workflow.training.responses import ResponseCollator, load_responses
from rm_workflow.training.trainer import add_lora
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, rated, read, write_raw
from rm_workflow_tests.training import toy

FILES = {"train": ["train.jsonl"], "test": ["test.jsonl"]}
SOURCE = Source(path="somewhere", files=FILES, adapter="any", licence="MIT")
GRADES = (("Yes. Paris.", 4, 3), ("Yes.", 3, None), ("No. The Danube is a river.", 1, 3), ("No.", 1, 0))
UNITS = {"plackett_luce": "prompts", "regression": "responses", "scalar_orm": "responses"}
CUT = {"mixture.sample": {"train_prompts": 6}, "evaluation.evaluate_on": ["test"], "training.logging_steps": 1}


def toy_rows(count: int, file: str = "train.jsonl", first: int = 0) -> list[RawRow]:
    """Return prompts with four replies: helpfulness of all, correctness of three of them, and outcomes."""
    rows = []
    for n in range(first, first + count):
        shown = [
            Shown(str(slot), text, {"h": h} if c is None else {"h": h, "c": c}, outcome=float(h > 1))
            for slot, (text, h, c) in enumerate(GRADES)
        ]
        rows.append(RawRow(f"{toy.PROMPTS[n % 4]} ({n})", shown[n % 2 :], n, file))
    return rows


def write_tokens(folder: Path, base: Path, rows: list[RawRow], use: dict, **recipe):
    """Build mixture and tokens of one source; returns the folder of the tokens and their facts."""
    raw = write_raw(folder / "raw", rows, "src")
    mixture = Mixture(kind="responses", responses=[{"src": use} if use else "src"], split=Split(by="native"))
    for name in ("mixture", "tokens"):
        (folder / name).mkdir()
    build_response_mixture(mixture, [ResponsePart(mixture.responses[0], SOURCE, raw)], {}, folder / "mixture")
    tokens = TokenRecipe(**{**toy.TOKENS.model_dump(), **recipe})
    built = build_response_tokens(folder / "mixture", [raw], base, tokens, folder / "tokens")
    assert all(check.passed for check in built.checks)
    return folder / "tokens", built.facts


@pytest.fixture(scope="module")
def ratings(tmp_path_factory, tiny_base):
    rows = [*toy_rows(6), *toy_rows(2, "test.jsonl", 50)]
    return write_tokens(tmp_path_factory.mktemp("ratings"), tiny_base, rows, {"ratings": ["h", "c"]})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, tiny_base):
    return write_tokens(
        tmp_path_factory.mktemp("outcomes"), tiny_base, [*toy_rows(6), *toy_rows(2, "test.jsonl", 50)], {}
    )


def toy_recipe(objective: str, **training) -> Recipe:
    recipe = toy.recipe().model_dump()
    use = "src" if objective == "scalar_orm" else {"src": {"ratings": ["h", "c"]}}
    mixture = {"kind": "responses", "responses": [use], "split": {"by": "native"}}
    changed = {**recipe["training"], "batch_unit": UNITS[objective], **training}
    return Recipe.model_validate({**recipe, "objective": objective, "mixture": mixture, "training": changed})


def make_trainer(tiny_base, encoder, tokens, tmp_path, objective, precision="fp32", **training):
    folder, facts = tokens
    config = run_config.resolve(toy_recipe(objective, head_init_std=0.5, **training), facts, "cpu", precision)
    data = load_responses(folder, objective, config["attributes"])
    model = load_reward_model(tiny_base, 0.5, 0, encoder.pad_token_id)
    if len(config["attributes"]) > 1:
        widen_head(model, len(config["attributes"]), 0.5, 0)
    if config["training"]["lora"]:
        torch.manual_seed(0)
        model = add_lora(model, config["training"]["lora"], "toy/tiny")
    progress = Progress(tmp_path / "metrics.jsonl", config["num_steps"], config["num_train_pairs"])
    trainer = ResponseTrainer(model, encoder.tokenizer, data, config, progress, tmp_path)
    progress.start()
    return trainer


# --- tokens


def test_tokens_keep_labels_and_test_pairs_of_what_fits(tiny_base, tmp_path):
    long = " ".join(["The river is long."] * 12)
    rows = [
        rated(
            "Name a river.", [("The Danube.", {"h": 4}), (long, {"h": 3}), ("<pad>", {"h": 2}), ("No.", {"h": 1})], 1
        ),
        rated("Is it?", [("Yes.", {"h": 4}), ("No.", {"h": 1}), (long, {"h": 3})], 1, "test.jsonl"),
        rated("And?", [("Yes.", {"h": 4}), (long, {"h": 1})], 2),
    ]
    folder, facts = write_tokens(tmp_path, tiny_base, rows, {"ratings": ["h"]}, max_length=40)
    assert (facts["responses"], facts["kept"]) == (9, 5)
    assert facts["dropped"] == {"too_long": 3, "collapsed": 0, "special_token": 1}
    assert (facts["train"], facts["test"], facts["test_pairs"]) == (3, 2, 1)
    assert (facts["train_prompts_per_epoch"], facts["unranked_prompts"]) == (1, 1)
    kept = {row["response_id"] for row in read(folder / "labelled.parquet")}
    assert kept == {row["response_id"] for row in read(folder / "responses.parquet")}
    pairs = read(folder / "pairs.parquet")
    assert all({pair["chosen_id"], pair["rejected_id"]} <= kept for pair in pairs)
    assert sorted(pair["split"] for pair in pairs) == ["test", "train"]
    dropped = read(folder / "dropped.parquet")
    assert sorted((drop["rule"], drop["row"], drop["stage"]) for drop in dropped) == [
        ("special_token", 1, "response"),
        ("too_long", 1, "response"),
        ("too_long", 1, "response"),
        ("too_long", 2, "response"),
    ]
    assert next(drop["detail"] for drop in dropped if drop["rule"] == "special_token") == "<pad>"


def test_tokens_without_a_train_response_are_refused(tiny_base, tmp_path):
    with pytest.raises(UserError, match=r"no train response is left after tokenising: of 1, 1 as too_long"):
        write_tokens(
            tmp_path, tiny_base, [rated("Name a river.", [("Yes.", {"h": 1})], 1)], {"ratings": ["h"]}, max_length=8
        )


# --- items


def test_a_ranking_is_an_item_with_all_responses_of_its_prompt(ratings):
    data = load_responses(ratings[0], "plackett_luce")
    assert len(data) == ratings[1]["train_prompts_per_epoch"] == 6
    assert sorted(len(data.rows_of(item)) for item in range(6)) == [3, 3, 3, 4, 4, 4]
    labelled = {row["response_id"]: row for row in read(ratings[0] / "labelled.parquet") if row["split"] == "train"}
    for item in range(6):
        rows = [labelled[data.response_ids[data.response[row]]] for row in data.rows_of(item)]
        assert {row["prompt_id"] for row in rows} == {data.pair_key[item]}
        assert data.targets[data.rows_of(item), 0].tolist() == [row["rank"] for row in rows]
    lengths = np.diff(data.starts)[data.response]
    assert data.num_tokens == lengths.sum()


def test_prompts_of_one_rank_are_no_items_of_a_ranking(tiny_base, tmp_path):
    rows = [*toy_rows(2), rated("One?", [("a", {"h": 1}), ("b", {"h": 1})], 8), rated("Two?", [("a", {"h": 1})], 9)]
    folder, facts = write_tokens(tmp_path, tiny_base, rows, {"ratings": ["h"]})
    assert len(load_responses(folder, "plackett_luce")) == facts["train_prompts_per_epoch"] == 2
    config = run_config.resolve(
        toy_recipe("plackett_luce").model_copy(
            update={"evaluation": toy.recipe().evaluation.model_copy(update={"evaluate_on": []})}
        ),
        facts,
        "cpu",
        "fp32",
    )
    assert config["notes"] == ["2 train prompts are left out: their responses have one rank, so they teach no order"]


def test_ratings_become_standard_scores_of_their_source_and_missing_ones_nan(ratings):
    data = load_responses(ratings[0], "regression", ["c", "h"])
    labelled = {row["response_id"]: dict(row["values"]) for row in read(ratings[0] / "labelled.parquet")}
    raw = np.array([[labelled[data.response_ids[r]].get(name, np.nan) for name in ("c", "h")] for r in data.response])
    expected = (raw - np.nanmean(raw, 0)) / np.nanstd(raw, 0)
    assert np.isnan(expected).any()
    assert np.allclose(data.targets, expected, atol=1e-6, equal_nan=True)
    assert data.scales["h"]["src"] == pytest.approx({"mean": np.nanmean(raw[:, 1]), "std": np.nanstd(raw[:, 1])})
    assert len(data) == ratings[1]["train_per_epoch"] == 21


def test_ratings_that_never_differ_are_refused(tiny_base, tmp_path):
    rows = [rated(f"Q {n}", [("Yes.", {"h": n, "c": 2})], n) for n in range(3)]
    folder, _ = write_tokens(tmp_path, tiny_base, rows, {"ratings": ["h", "c"]})
    with pytest.raises(UserError, match="all train ratings 'c' of source src are 2"):
        load_responses(folder, "regression", ["c", "h"])


def test_more_tied_responses_than_can_be_computed_are_refused(tiny_base, tmp_path):
    answers = [(f"answer {n}", {"h": 2}) for n in range(11)]
    for folder, name, few in ((tmp_path / "a", "Worst tied?", 3), (tmp_path / "b", "Best tied?", 1)):
        folder.mkdir()
        tokens, _ = write_tokens(
            folder, tiny_base, [rated(name, [*answers, ("other", {"h": few})], 1)], {"ratings": ["h"]}
        )
        if few == 3:
            assert len(load_responses(tokens, "plackett_luce")) == 1
        else:
            with pytest.raises(UserError, match=r"11 responses of prompt \w+ share a rank above others"):
                load_responses(tokens, "plackett_luce")


# --- a step


def slow_step(trainer, items):
    """Return loss and gradients of one step, one unpadded conversation at a time, as the formulas stand."""
    data, model = trainer.pairs, trainer.model
    model.zero_grad()
    model.train()
    total, weights = 0.0, 0.0
    for item in items:
        outputs = []
        for response in data.response[data.rows_of(item)]:
            hidden = model.model(torch.tensor([data.ids(int(response)).tolist()])).last_hidden_state[0, -1]
            outputs.append(model.score(hidden))
        targets = data.targets[data.rows_of(item)]
        total = total + float(data.weight[item]) * FORMULAS[trainer.objective.target](outputs, targets)
        weights += float(data.weight[item])
    loss = total / weights
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def ranking(outputs, targets):
    """The toy rankings tie only in last place (or first, of two), where one order at a time can be summed by hand."""
    rewards, ranks = torch.stack(outputs)[:, 0], targets[:, 0]
    orders = [[]]
    for rank in sorted(set(ranks)):
        tied = np.flatnonzero(ranks == rank).tolist()
        assert len(tied) <= 2
        ends = [tied] if len(tied) == 1 else [tied, tied[::-1]]
        orders = [order + end for order in orders for end in ends]
    logs = [sum(rewards[o[n]] - rewards[o[n:]].logsumexp(0) for n in range(len(o))) for o in orders]
    return -torch.stack(logs).logsumexp(0)


def squares(outputs, targets):
    ((output,), (target,)) = (outputs, targets)
    errors = [(output[n] - float(target[n])) ** 2 for n in range(2) if not np.isnan(target[n])]
    return sum(errors) / len(errors)


def cross_entropy(outputs, targets):
    ((output,), ((target,),)) = (outputs, targets)
    return -logsigmoid(output[0]) if target else -logsigmoid(-output[0])


FORMULAS = {"rank": ranking, "ratings": squares, "outcome": cross_entropy}


@pytest.mark.parametrize("objective", sorted(UNITS))
@pytest.mark.parametrize(
    ("layout", "micro_batch_tokens"),
    [("padded", 1), ("padded", 4096), ("grouped", 110), ("packed", 110), ("kwise", 1), ("kwise", 4096)],
)
def test_a_step_equals_the_slow_reference_whatever_the_layout_and_the_micro_batches(
    objective, layout, micro_batch_tokens, ratings, outcomes, tiny_base, encoder, tmp_path
):
    tokens = outcomes if objective == "scalar_orm" else ratings
    values = {"layout": layout, "micro_batch_tokens": micro_batch_tokens}
    trainer = make_trainer(tiny_base, encoder, tokens, tmp_path, objective, **values)
    trainer.pairs.weight[:3] = [2.0, 0.5, 3.0]
    items = [4, 0, 2, 1, 3]
    step = trainer.data_collator([{"pair": item} for item in items])
    assert (len(step["micro_batches"]) == 1) == (micro_batch_tokens == 4096)
    trainer.model.zero_grad()
    loss = trainer.training_step(trainer.model, step).item()
    ours = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    expected, theirs = slow_step(trainer, items)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.norm() > 1e-4, name
        assert (ours[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_a_micro_batch_never_cuts_a_ranking(ratings, encoder):
    data = load_responses(ratings[0], "plackett_luce")
    collator = ResponseCollator(data, "grouped", 300, encoder.pad_token_id)
    batches = collator([{"pair": item} for item in range(6)])["micro_batches"]
    assert len(batches) > 1
    for batch in batches:
        for place, item in enumerate(batch["pair"].tolist()):
            rows = batch["input_ids"][batch["item_index"] == place]
            assert len(rows) == len(data.rows_of(item))
            assert batch["num_tokens"][place] == data.lengths(item).sum() == (rows != encoder.pad_token_id).sum()


def test_only_what_the_responses_of_a_ranking_begin_with_stands_once(ratings, encoder):
    data = load_responses(ratings[0], "plackett_luce")
    packed, kwise = (ResponseCollator(data, layout, 300, encoder.pad_token_id) for layout in ("packed", "kwise"))
    for item in range(6):
        responses = [data.ids(int(response)).tolist() for response in data.response[data.rows_of(item)]]
        num_common = next(n for n in range(999) if len({tuple(ids[: n + 1]) for ids in responses}) > 1)
        assert 0 < num_common < min(map(len, responses))
        (batch,) = packed.micro_batches([item])
        assert batch["input_ids"].numel() == packed.cost([item]) == sum(map(len, responses))
        (batch,) = kwise.micro_batches([item])
        stated, saved = batch["num_tokens"].item(), (len(responses) - 1) * num_common
        assert batch["input_ids"].numel() == kwise.cost([item]) == stated - saved
        ends = batch["input_ids"][0, batch["end_index"]].tolist()
        assert ends == [ids[-1] for ids in responses]
    assert len(list(kwise.micro_batches(range(6)))) < len(list(packed.micro_batches(range(6))))


@pytest.mark.parametrize(
    ("objective", "requested", "dropout", "taken"),
    [
        ("plackett_luce", "auto", 0.0, "kwise"),
        ("plackett_luce", "shared", 0.0, "kwise"),
        ("plackett_luce", "packed", 0.0, "packed"),
        ("plackett_luce", "auto", 0.1, "packed"),
        ("plackett_luce", "kwise", 0.1, "grouped"),
        ("plackett_luce", "padded", 0.0, "padded"),
        ("regression", "auto", 0.0, "packed"),
        ("regression", "kwise", 0.1, "packed"),
    ],
)
def test_rankings_share_their_prompt_where_nothing_stands_against_it(
    objective, requested, dropout, taken, ratings, tiny_base, encoder, tmp_path
):
    lora = {"r": 4, "alpha": 8, "dropout": dropout}
    trainer = make_trainer(tiny_base, encoder, ratings, tmp_path, objective, layout=requested, lora=lora)
    assert trainer.layout == taken
    assert ("dropout" in trainer.layout_reason) == (taken == "grouped")


def test_a_body_whose_rewards_depend_on_the_layout_trains_rankings_in_padded_rows(
    ratings, tiny_base, encoder, tmp_path, monkeypatch
):
    trainer = make_trainer(tiny_base, encoder, ratings, tmp_path, "plackett_luce")
    proving.prove_layout(trainer, trainer.probe())
    assert trainer.layout == "kwise"
    stock = attention.arguments
    # Positions that count on over the row, as of a body that is not told where a response begins.
    monkeypatch.setattr(attention, "arguments", lambda batch: {**stock(batch), "position_ids": None})
    proving.prove_layout(trainer, trainer.probe())
    assert trainer.layout == "grouped"
    assert "rewards of the kwise layout differ by" in trainer.layout_reason


def test_margins_say_whether_the_reward_is_right(ratings, outcomes, tiny_base, encoder, tmp_path):
    trainer = make_trainer(tiny_base, encoder, ratings, tmp_path, "plackett_luce")
    batch = trainer.collator([{"pair": 0}])["micro_batches"][0]
    outputs = trainer.outputs(trainer.model.eval(), batch)[:, 0]
    best = batch["targets"][:, 0] == batch["targets"].min()
    _, margins = trainer.item_losses(trainer.model.eval(), batch)
    assert margins.item() == pytest.approx((outputs[best].max() - outputs[~best].max()).item())

    trainer = make_trainer(tiny_base, encoder, outcomes, tmp_path, "scalar_orm")
    batch = trainer.collator([{"pair": item} for item in range(9)])["micro_batches"][0]
    outputs = trainer.outputs(trainer.model.eval(), batch)[:, 0]
    _, margins = trainer.item_losses(trainer.model.eval(), batch)
    assert torch.allclose(margins, torch.where(batch["targets"][:, 0] == 1, outputs, -outputs))


def test_a_rating_at_the_mean_is_neither_right_nor_wrong(ratings, tiny_base, encoder, tmp_path):
    trainer = make_trainer(tiny_base, encoder, ratings, tmp_path, "regression", batch_size=1, logging_steps=1)
    trainer.pairs.targets[::2] = 0.0
    trainer.train()
    records = trainer.progress.records
    assert {record["judged"] for record in records} == {0, 1}
    for record in records:
        assert record["pairs"] == 1
        assert (record["accuracy"] is None) == (record["margin"] is None) == (record["judged"] == 0)
        assert record["sources"] == ({"src": {"accuracy": record["accuracy"], "pairs": 1}} if record["judged"] else {})
    trainer = make_trainer(tiny_base, encoder, ratings, tmp_path, "regression", batch_size=100, logging_steps=1)
    trainer.pairs.targets[::2] = 0.0
    trainer.train()
    record, data = trainer.progress.records[0], trainer.pairs
    assert record["judged"] == (data.targets[:, 0] != 0).sum() < record["pairs"] == len(data)
    assert record["accuracy"] * record["judged"] == pytest.approx(round(record["accuracy"] * record["judged"]))


def test_the_probe_holds_whole_prompts_also_where_a_step_counts_responses(outcomes, tiny_base, encoder, tmp_path):
    trainer = make_trainer(tiny_base, encoder, outcomes, tmp_path, "scalar_orm")
    data = trainer.pairs
    prompts = [int(data.prompt[item]) for item in trainer.probe()["pair"].tolist()]
    assert len(prompts) >= 16
    assert all(prompts.count(prompt) == (data.prompt == prompt).sum() for prompt in set(prompts))


# --- canaries


def test_responses_of_a_prompt_with_equal_rewards_stop_the_run():
    prompts, ones = torch.tensor([0, 0, 1, 1]), torch.ones(4)
    outputs = torch.tensor([[0.1], [0.1], [0.2], [0.2]])
    with pytest.raises(UserError, match="rewards of the responses of a prompt are equal in all 4 first responses"):
        canaries.check_response_start(outputs, prompts, ones, ones, ones, True)
    outputs[3] = 0.21
    assert canaries.check_response_start(outputs, prompts, ones, ones, ones, True) == 1.0
    with pytest.raises(UserError, match=r"loss of a fresh head is 1\.000 where equal rewards give 3\.000"):
        canaries.check_response_start(outputs, prompts, ones, 3 * ones, ones, True)
    with pytest.raises(UserError, match="loss of the first responses is nan"):
        canaries.check_response_start(outputs, prompts, ones * float("nan"), ones, ones, True)


# --- whole runs


def test_the_heads_of_attributes_become_the_one_reward_that_their_weights_say(ratings, tiny_base, encoder, tmp_path):
    values = {"attribute_weights": {"h": 0.75, "c": -0.25}, "lora": {"r": 4, "alpha": 8}, "epochs": 2}
    trainer = make_trainer(tiny_base, encoder, ratings, tmp_path, "regression", **values)
    trainer.train()
    batch = trainer.probe()
    with torch.no_grad():
        before = trainer.outputs(trainer.model.eval(), batch)
        trainer.finish(trainer.trained_model, tmp_path)
        (after,) = trainer.outputs(trainer.model.eval(), batch).T
    assert torch.allclose(after, -0.25 * before[:, 0] + 0.75 * before[:, 1], atol=1e-6)
    heads = load_file(tmp_path / "attributes.safetensors")
    assert list(heads) == ["c", "h"]
    assert torch.allclose(-0.25 * heads["c"] + 0.75 * heads["h"], head_module(trainer.model).weight[0], atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "lora"), [("plackett_luce", None), ("regression", {"r": 8, "alpha": 16}), ("scalar_orm", None)]
)
def test_training_learns_the_toy_task_and_the_saved_model_gives_its_rewards(
    objective, lora, ratings, outcomes, tiny_base, encoder, tmp_path
):
    folder, facts = outcomes if objective == "scalar_orm" else ratings
    recipe = toy_recipe(objective, lora=lora, epochs=20, batch_size=4, learning_rate=1e-2 if lora else 3e-3)
    config = run_config.resolve(recipe, facts, "cpu", "fp32")
    out = tmp_path / "out"
    out.mkdir()
    told = []
    result = toy.train(toy.write_run_config(tmp_path / "run.json", config), folder, tiny_base, out, told.append)
    assert told[0].startswith(f"training toy: {config['num_train_pairs']} {UNITS[objective]},")
    assert result["last_loss"] < 0.5 * result["first_loss"]
    assert result["last_accuracy"] >= 0.75
    assert result["reload"]["passed"]
    assert json.loads((out / "model" / "config.json").read_text())["architectures"] == [
        "LlamaForSequenceClassification"
    ]
    assert ("attributes" in result) == (objective == "regression") == (out / "attributes.safetensors").is_file()


def test_tokens_with_repeated_rows_fit_their_run_config(tiny_base, encoder, tmp_path):
    folder, facts = write_tokens(
        tmp_path, tiny_base, [*toy_rows(4), *toy_rows(1, "test.jsonl", 50)], {"ratings": ["h"], "repeat": 2}
    )
    assert facts["train_prompts_per_epoch"] == 8
    config = run_config.resolve(toy_recipe("plackett_luce"), facts, "cpu", "fp32")
    (tmp_path / "out").mkdir()
    result = toy.train(toy.write_run_config(tmp_path / "run.json", config), folder, tiny_base, tmp_path / "out")
    assert result["num_pairs"] == 8


@pytest.mark.parametrize("name", ["quickstart_plackett_luce", "quickstart_regression", "quickstart_scalar_orm"])
def test_the_embedded_recipes_train_for_some_steps(name, tiny_base, encoder, tmp_path, embedded):
    catalog, raw_of = embedded
    recipe = override_recipe(catalog.recipes[name], {**CUT, "base": str(tiny_base), "training.precision": "fp32"})
    parts = [ResponsePart(use, catalog.sources[use.name], raw_of[use.name]) for use in recipe.mixture.responses]
    recipe_mixture = recipe.mixture.model_copy(update={"decontaminate_against": []})
    for folder in ("mixture", "tokens", "out"):
        (tmp_path / folder).mkdir()
    mixed = build_response_mixture(recipe_mixture, parts, {}, tmp_path / "mixture")
    raws = [part.raw for part in parts]
    built = build_response_tokens(tmp_path / "mixture", raws, tiny_base, recipe.tokens, tmp_path / "tokens")
    assert all(check.passed for check in (*mixed.checks, *built.checks))
    config = run_config.resolve(recipe, built.facts, "cpu", "fp32")
    result = toy.train(
        toy.write_run_config(tmp_path / "r.json", config), tmp_path / "tokens", tiny_base, tmp_path / "out"
    )
    assert result["reload"]["passed"]
    assert 2 <= result["num_steps"] <= 12
    assert np.isfinite(result["last_loss"])
    assert pq.read_table(tmp_path / "tokens" / "pairs.parquet").num_rows > 50


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """The built-in catalogue, and the raw tables of its embedded rated replies and solutions."""
    from rm_workflow import hub

    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, hub_mirror=None, catalog=None, project=Path(__file__).parents[2], device="cpu")
    catalog = load_catalog(settings)
    folders = {}
    for name in ("sample_ratings", "sample_solutions"):
        folders[name] = home / name
        folders[name].mkdir()
        source = catalog.sources[name]
        build_raw(name, source, hub.resolve_files(source, settings), folders[name])
    return catalog, folders
