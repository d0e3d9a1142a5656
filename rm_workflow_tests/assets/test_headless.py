"""What a run without the web UI says when it fails."""

import os
import signal
import time
from pathlib import Path

import dagster as dg
import pytest

from rm_workflow.assets import headless
from rm_workflow.assets.flow import Flow
from rm_workflow.catalog.loading import load_catalog, override_recipe
from rm_workflow.catalog.models import Recipe
from rm_workflow.settings import Settings


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_a_signal_ended_says_how_to_go_on(number):
    @dg.asset
    def endless() -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    started = time.monotonic()
    result = dg.materialize([endless], raise_on_error=False)
    assert time.monotonic() - started < 30
    told = str(headless._failure(result))
    assert told == "asset endless was ended by a signal; run the same command again to go on"


def test_a_failed_asset_is_named_with_the_innermost_reason():
    @dg.asset
    def broken() -> None:
        try:
            raise ValueError("the disk is full")
        except ValueError as error:
            raise RuntimeError("outer") from error

    result = dg.materialize([broken], raise_on_error=False)
    assert str(headless._failure(result)) == "asset broken failed: ValueError: the disk is full"


def test_the_base_model_is_made_for_data_alone_only_where_it_writes_them(tmp_path: Path):
    settings = Settings(home=tmp_path, hub_mirror=None, catalog=None, project=None, device="cpu")
    catalog = load_catalog(settings)
    kinds = headless.kinds_until("mixture")
    orm = catalog.recipes["orm_llama31_8b"]

    def made(recipe: Recipe) -> list[str]:
        return [planned.asset for planned in Flow(catalog).of_kinds(recipe, kinds) if planned.kind != "benchmark"]

    assert made(orm) == ["raw_mistral_orm", "orm_llama31_8b_mixture"]
    annotation = {"problems": "gsm8k", "generator": "org/writer-1B"}
    values = {"annotation": annotation, "mixture.responses": ["annotation"]}
    own = made(override_recipe(orm, values, catalog))
    assert own[:4] == ["raw_gsm8k", "base_writer_1b", "orm_llama31_8b_rollouts", "orm_llama31_8b_step_labels"]
    served = made(override_recipe(orm, {**values, "annotation.endpoint": "http://localhost:8000/v1"}, catalog))
    assert "base_writer_1b" not in served
    assert served[-1] == "orm_llama31_8b_mixture"


def test_where_an_endpoint_stands_is_no_part_of_the_key_of_what_it_wrote(tmp_path: Path):
    catalog = load_catalog(Settings(home=tmp_path, hub_mirror=None, catalog=None, project=None, device="cpu"))
    annotation = {"problems": "gsm8k", "generator": "writer"}
    requested = []
    for endpoint in ("http://one:8000/v1", "http://two/v1", None):
        values = {"annotation": {**annotation, "endpoint": endpoint}, "mixture.responses": ["annotation"]}
        recipe = override_recipe(catalog.recipes["orm_llama31_8b"], values, catalog)
        requested.append(Flow(catalog).rollouts(recipe).requested)
    assert requested[0] == requested[1] != requested[2]
