"""Labelled solutions: tokens with the places of their labels, blocks, one step against its formula, whole runs."""

import json

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import log_softmax, logsigmoid

from rm_workflow.errors import UserError
from rm_workflow.models import attention
from rm_workflow.models.readout import AUTO_CLASSES, KINDS, Readout, stored_readout
from rm_workflow.models.reward_model import load_reward_model
from rm_workflow.training import building, proving, run_config
from rm_workflow.training.metrics import Progress
from rm_workflow.training.solutions import SolutionCollator, load_solutions
from rm_workflow_tests.preferences.raw_tables import read
from rm_workflow_tests.training import toy
from rm_workflow_tests.training.toy_solutions import OBJECTIVES, Solved, recipe, solved, write_tokens

STEPWISE = ("generative_prm", "token_prm")
BLOCK = 150


@pytest.fixture(scope="module")
def written(tmp_path_factory, tiny_base):
    """The toy solutions as tokens of each objective."""
    rows = [*solved(11), *solved(4, "test", 40)]
    return {
        name: write_tokens(tmp_path_factory.mktemp(name), tiny_base, rows, name, max_length=BLOCK)
        for name in OBJECTIVES
    }


def make_trainer(base, encoder, tokens, tmp_path, objective, **training):
    folder, facts = tokens
    data = load_solutions(folder, objective)
    made = recipe(objective, BLOCK, **{"head_init_std": 0.5, **training})
    config = run_config.resolve(made, facts, "cpu", "fp32", data)
    progress = Progress(tmp_path / "metrics.jsonl", config["num_steps"], config["num_train_pairs"])
    trainer = building.make_trainer(config, encoder, data, base, progress, tmp_path)
    progress.start()
    return trainer


# --- tokens


def test_each_label_stands_at_its_verdict_whatever_signs_the_texts_hold(written, encoder):
    folder, facts = written["generative_prm"]
    good, bad = stored_readout(folder).sign_ids
    ids = {row["response_id"]: row["input_ids"] for row in read(folder / "responses.parquet")}
    for row in (row for row in read(folder / "labelled.parquet") if row["split"] == "train"):
        found = ids[row["response_id"]]
        for place, value in zip(row["label_positions"], row["label_values"], strict=True):
            assert found[place] == (good if value >= 0.5 else bad)
            before = encoder.tokenizer.decode(found[:place])
            assert before.endswith("<|im_start|>assistant\n")
            step = before.removesuffix("<|im_end|>\n<|im_start|>assistant\n").split("<|im_start|>user\n")[-1]
            assert ("Yes" in step) == (value >= 0.5), step
    assert facts["train_labels"] == sum(label is not None for one in solved(11) for label in one.labels)
    assert facts["trajectories"] == facts["kept"] == 15
    assert (facts["train"], facts["test"], facts["cut_labels"]) == (11, 4, 0)


def test_test_solutions_are_tokenised_as_they_are_scored(written):
    folder, _ = written["generative_prm"]
    good, _ = stored_readout(folder).sign_ids
    ids = {row["response_id"]: row["input_ids"] for row in read(folder / "responses.parquet")}
    labelled = [row for row in read(folder / "labelled.parquet") if row["split"] == "test"]
    assert min(value for row in labelled for value in row["label_values"]) < 0.5
    assert all(ids[row["response_id"]][place] == good for row in labelled for place in row["label_positions"])


def test_a_step_of_an_answer_ends_at_the_token_with_its_last_character(written, encoder):
    folder, _ = written["token_prm"]
    ids = {row["response_id"]: row["input_ids"] for row in read(folder / "responses.parquet")}
    by_text = {one.text: one for one in solved(15)} | {one.text: one for one in solved(4, "test", 40)}
    for row in read(folder / "labelled.parquet"):
        found = ids[row["response_id"]]
        text = encoder.tokenizer.decode(found).split("<|im_start|>assistant\n")[1].removesuffix("<|im_end|>\n")
        one = by_text[text]
        ends = [end for end, label in zip(one.step_ends, one.labels, strict=True) if label is not None]
        for place, end in zip(row["label_positions"], ends, strict=True):
            upto, without = (encoder.tokenizer.decode(found[:stop]) for stop in (place + 1, place))
            assert upto.split("<|im_start|>assistant\n")[1].startswith(text[:end])
            assert not without.split("<|im_start|>assistant\n")[1].startswith(text[:end])


def test_an_outcome_has_one_label_at_the_end(written):
    folder, facts = written["generative_orm"]
    ids = {row["response_id"]: row["input_ids"] for row in read(folder / "responses.parquet")}
    rows = read(folder / "labelled.parquet")
    assert all(len(row["label_positions"]) == 1 for row in rows)
    assert len({len(ids[row["response_id"]]) - row["label_positions"][0] for row in rows}) == 1
    assert facts["responses"] == 15


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_over_long_solutions_are_cut_so_that_no_label_of_what_stays_is_lost(objective, tiny_base, tmp_path):
    text = "The river is long. " * 4
    rows = [
        Solved("Short?", ["Yes."], [1.0]),
        Solved("Many steps?", [f"{n}. {text}" for n in range(5)], [1.0, None, 0.0, 1.0, 0.0]),
        Solved(text * 7, ["Yes. "], [1.0]),
        Solved("None?", ["Yes.", "No."], [None, None]),
        Solved("Forged?", ["<|im_end|>"], [1.0]),
    ]
    limit = 110
    folder, facts = write_tokens(
        tmp_path, tiny_base, rows, objective, max_length=limit, over_length="truncate_prompt_left"
    )
    assert facts["dropped"]["no_label"] == facts["dropped"]["special_token"] == 1
    lengths = {row["response_id"]: row["input_ids"] for row in read(folder / "responses.parquet")}
    labelled = read(folder / "labelled.parquet")
    good_bad = stored_readout(folder).sign_ids
    for row in labelled:
        ids = lengths[row["response_id"]]
        assert len(ids) <= limit
        assert len(row["label_positions"]) == len(row["label_values"]) > 0
        assert max(row["label_positions"]) < len(ids)
        if good_bad:
            signs = [good_bad[value < 0.5] for value in row["label_values"]]
            assert [ids[place] for place in row["label_positions"]] == signs
    if objective in STEPWISE:
        assert facts["dropped"]["too_long"] == 1
        assert (facts["cut_solutions"], facts["kept"]) == (1, 2)
        many = next(row for row in labelled if len(lengths[row["response_id"]]) > 60)
        assert many["label_values"] == [1.0, 0.0][: len(many["label_values"])]
        assert facts["cut_labels"] == 4 - len(many["label_values"])
    else:
        # The many steps are one answer, and only the beginning of a problem may go.
        assert facts["dropped"]["too_long"] == 1
        assert (facts["cut_labels"], facts["kept"]) == (0, 2)


def test_over_long_solutions_are_dropped_where_the_recipe_drops(tiny_base, tmp_path):
    rows = [Solved("Short?", ["Yes."], [1.0]), Solved("Long?", ["The river is long. " * 9] * 3, [1.0, 1.0, 0.0])]
    _, facts = write_tokens(tmp_path, tiny_base, rows, "generative_prm", max_length=100)
    assert facts["dropped"] == {"too_long": 1, "collapsed": 0, "special_token": 0, "no_label": 0}


def test_one_solution_with_two_sets_of_labels_is_refused(tiny_base, tmp_path):
    rows = [Solved("A?", ["Yes."], [1.0]), Solved("A?", ["Yes."], [0.0])]
    with pytest.raises(UserError, match="has labels more than once"):
        write_tokens(tmp_path, tiny_base, rows, "generative_prm")


def test_tokens_of_another_objective_are_refused(written):
    with pytest.raises(UserError, match="holds no tokens for objective token_prm"):
        load_solutions(written["generative_prm"][0], "token_prm")


# --- blocks and steps


def test_a_block_holds_whole_solutions_in_the_order_of_training_and_a_step_blocks(written, encoder):
    data = load_solutions(written["generative_prm"][0], "generative_prm")
    order = list(range(len(data))) * 2
    blocks = list(data.blocks(order, BLOCK))
    sizes = [sum(int(data.lengths(item)[0]) for item in block) for block in blocks]
    assert [item for block in blocks for item in block] == order
    assert 2 < len(blocks) < len(order)
    assert max(sizes) <= BLOCK
    for size, after in zip(sizes, blocks[1:], strict=False):
        assert size + int(data.lengths(after[0])[0]) > BLOCK
    steps, of_steps = data.block_steps(3, 2, 2, BLOCK)
    assert sum(of_steps) == len(list(data.blocks([item for step in steps for item in step], BLOCK)))
    assert set(of_steps[:-1]) == {2}
    assert sorted(item for step in steps for item in step) == sorted(order)


def slow_step(trainer, items):
    """Return loss and gradients of one step, one unpadded solution at a time, as the formulas stand."""
    data, model = trainer.pairs, trainer.model
    model.zero_grad()
    model.train()
    total, weights = 0.0, 0.0
    for item in items:
        ids = torch.tensor([data.ids(int(data.response[item])).tolist()])
        plain = model(input_ids=ids).logits[0]
        for place, value in zip(
            data.read_at[data.labels_of(item)], data.label_value[data.labels_of(item)], strict=True
        ):
            if data.readout.sign_ids:
                good, bad = data.readout.sign_ids
                log_p = log_softmax(plain[place], 0)
                one = -(value * log_p[good] + (1 - value) * log_p[bad])
            else:
                one = -(value * logsigmoid(plain[place, 0]) + (1 - value) * logsigmoid(-plain[place, 0]))
            total = total + float(data.weight[item]) * one
            weights += float(data.weight[item])
    loss = total / weights
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("layout", "micro_batch_tokens"),
    [("padded", 1), ("padded", 4096), ("grouped", 200), ("packed", 150), ("auto", 4096)],
)
def test_a_step_is_the_mean_over_its_labels_whatever_the_layout_and_the_micro_batches(
    objective, layout, micro_batch_tokens, written, tiny_base, encoder, tmp_path
):
    values = {"layout": layout, "micro_batch_tokens": micro_batch_tokens}
    trainer = make_trainer(tiny_base, encoder, written[objective], tmp_path, objective, **values)
    # The reference calls the whole model, whose dropout of a token classifier we never apply.
    trainer.model.dropout = torch.nn.Identity()
    items = [4, 0, 9, 1, 3]
    step = trainer.data_collator([{"pair": item} for item in items])
    assert (len(step["micro_batches"]) == 1) == (micro_batch_tokens == 4096)
    trainer.model.zero_grad()
    loss = trainer.training_step(trainer.model, step).item()
    ours = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    expected, theirs = slow_step(trainer, items)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name
    window = trainer.progress.window
    num_labels = sum(len(data) for data in (trainer.pairs.label_value[trainer.pairs.labels_of(item)] for item in items))
    assert (window.pairs, window.judged) == (len(items), num_labels)


def test_positions_begin_anew_with_each_solution_of_a_row(written, encoder):
    data = load_solutions(written["generative_prm"][0], "generative_prm")
    (batch,) = SolutionCollator(data, "packed", 4096, encoder.pad_token_id).micro_batches([2, 5, 2])
    lengths = [int(data.lengths(item)[0]) for item in (2, 5, 2)]
    assert batch["position_ids"][0].tolist() == [place for length in lengths for place in range(length)]
    assert batch["segments"].tolist() == [
        [end - length, end, -1] for length, end in zip(lengths, np.cumsum(lengths).tolist(), strict=True)
    ]
    assert batch["pair"].tolist() == [item for item in (2, 5, 2) for _ in data.label_value[data.labels_of(item)]]


def test_a_body_whose_verdicts_depend_on_the_layout_trains_in_padded_rows(
    written, tiny_base, encoder, tmp_path, monkeypatch
):
    trainer = make_trainer(tiny_base, encoder, written["generative_prm"], tmp_path, "generative_prm")
    proving.prove_layout(trainer, trainer.probe())
    assert trainer.layout == "packed"
    # As of a body that is not told where a solution begins.
    monkeypatch.setattr(attention, "arguments", lambda batch: {})
    proving.prove_layout(trainer, trainer.probe())
    assert trainer.layout == "grouped"


def test_a_model_whose_logits_are_changed_behind_its_head_is_refused(written, tiny_base, encoder, tmp_path):
    from rm_workflow.models.readout import check_signs

    model = load_reward_model(tiny_base, kind="signs")
    check_signs(model, (7, 9))
    model.lm_head.register_forward_hook(lambda module, given, found: 3 * found)
    with pytest.raises(UserError, match="no linear map of its last hidden state"):
        check_signs(model, (7, 9))


# --- whole runs


@pytest.mark.parametrize(
    ("objective", "lora"),
    [("generative_prm", None), ("generative_orm", {"r": 8, "alpha": 16}), ("token_prm", {"r": 8, "alpha": 16})],
)
def test_training_learns_the_toy_task_and_the_saved_model_gives_its_rewards(
    objective, lora, written, tiny_base, tmp_path
):
    folder, facts = written[objective]
    made = recipe(objective, BLOCK, lora=lora, epochs=12, batch_size=1, learning_rate=1e-2)
    config = run_config.resolve(made, facts, "cpu", "fp32", load_solutions(folder, objective))
    assert config["num_blocks"] == config["num_steps"]
    assert config["solutions_per_step"] == pytest.approx(11 * 12 / config["num_blocks"])
    out = tmp_path / "out"
    out.mkdir()
    told = []
    result = toy.train(toy.write_run_config(tmp_path / "run.json", config), folder, tiny_base, out, told.append)
    assert told[0].startswith("training toy: 11 solutions,")
    assert f"of 1 blocks of {BLOCK} tokens (about" in told[0]
    # Beside frozen weights of a random model no token of its vocabulary can become likely.
    assert result["last_loss"] < (0.97 if lora and objective == "generative_orm" else 0.5) * result["first_loss"]
    assert result["num_pairs"] == 12 * 11
    assert result["num_blocks"] == config["num_blocks"]
    assert result["reload"]["passed"]
    assert (result["reload"]["adapter_max_difference"] is None) == (lora is None)
    kind = KINDS[objective]
    plain = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(out / "model")
    assert plain.config.architectures == [type(plain).__name__]
    assert stored_readout(out / "model") == stored_readout(folder) == Readout(objective, load_ids(folder))
    assert json.loads((out / "result.json").read_text())["reload"]["passed"]


def load_ids(folder):
    found = json.loads((folder / "readout.json").read_text())
    return tuple(found["sign_ids"]) if "sign_ids" in found else None
