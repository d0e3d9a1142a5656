"""What Dagster and the events keep of an asset that failed."""

from pathlib import Path

import dagster as dg
import pytest

from rm_workflow.assets.flow import Planned
from rm_workflow.assets.publishing import Events, RecipeSettings, Workplace, define_asset
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.errors import UserError
from rm_workflow.settings import load_settings

TOKEN = "hf_canaryCANARYcanaryCANARY"


def raise_unexpected() -> None:
    raise ConnectionError(f"GET https://me:sesame@mirror.example/x?token={TOKEN} failed")


def raise_with_cause() -> None:
    try:
        raise_unexpected()
    except ConnectionError as error:
        raise UserError("hub: the mirror cannot be reached; connect") from error


@pytest.mark.parametrize("fail", [raise_unexpected, raise_with_cause])
def test_no_secret_of_an_error_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail):
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        fail()
        yield

    asset = define_asset(
        Planned("raw_toy", "raw", "toy", {}),
        load_catalog(load_settings()),
        body,
        group="raw",
        kinds={"parquet"},
        description="Fails.",
        checks=(),
    )
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        result = dg.materialize(
            [asset], instance=instance, resources={"recipe_settings": RecipeSettings()}, raise_on_error=False
        )
        assert not result.success
        kept = "".join(str(record) for record in instance.all_logs(result.run_id))
    assert "mirror" in kept
    for path in tmp_path.rglob("*"):
        if path.is_file():
            kept += path.read_bytes().decode("utf-8", "replace")
    assert "sesame" not in kept
    assert "CANARY" not in kept
