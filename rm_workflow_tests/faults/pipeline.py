"""A tiny recipe from raw rows to its card: by the library, through the real assets, or by the real ``rmw run``.

The first two are done in a fork of a process that has imported everything, Dagster's record of runs lies in its
memory, and the trainer is called where else a process would be started; so a start takes moments. ``start_rmw`` has
none of these short cuts.
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rm_workflow import hub
from rm_workflow.artifacts import Artifact, ArtifactStore, Built, ExternalFile, Outcome, Request
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Catalog
from rm_workflow.lineage.store import LineageStore
from rm_workflow.preferences import mixture, raw
from rm_workflow.preferences.mixture import Member
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import Project, lines

# Runs something in a home, in this process, and returns the assets that were there already.
Start = Callable[[Path], list[str]]

NAME = "toy"
RECIPE = """
base: BASE
mixture:
  pair_sets: [toy]
  split: {by: native}
tokens: {template: chatml, max_length: 128}
training:
  {learning_rate: 1e-3, batch_size: 4, epochs: 2, logging_steps: 1, precision: fp32, save: {minutes: null, steps: 2}}
evaluation: {precision: fp32, probes: {num_pairs: 0, num_prompt_ablated: 0}}
"""
# Steps between two training states.
INTERVAL = 2


class Pipeline:
    """The recipe in a folder of its own; every home beside it starts empty."""

    def __init__(self, folder: Path) -> None:
        from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

        self.project = Project(folder)
        write_tiny_model(folder / "base", tiny_tokenizer())
        self.project.write_rows(lines(range(16)))
        self.project.write_catalog(recipe=RECIPE.replace("BASE", str(folder / "base")))

    def environment(self, home: Path) -> dict[str, str]:
        """Return what a process needs to run the recipe in this home."""
        return {
            "RMW_HOME": str(home),
            "RMW_CATALOG": str(self.project.folder / "catalog"),
            "DAGSTER_HOME": str(home / "dagster"),
            "RMW_DEVICE": "cpu",
            "RMW_THREADS": "1",
        }

    def catalog(self) -> Catalog:
        """Return the built-in catalogue with this recipe alone."""
        os.environ.update(self.environment(self.project.home))
        loaded = load_catalog(load_settings())
        return loaded.model_copy(update={"recipes": {NAME: loaded.recipes[NAME]}})

    def prepare_data(self) -> Start:
        """Return what publishes raw rows, pair set and mixture with the library's calls alone, without Dagster."""
        catalog = self.catalog()
        flow, recipe = Flow(catalog), catalog.recipes[NAME]
        source, pair_set = catalog.sources[NAME], catalog.pair_sets[NAME]
        files = hub.resolve_files(source, load_settings(), "sources.yaml")
        external = tuple(ExternalFile(file.name, file.path, file.sha256) for file in files)

        def start(home: Path) -> list[str]:
            store = ArtifactStore(home)
            store.sweep()

            def publish(planned: Planned, inputs: tuple[Artifact, ...], build: Callable[[Path], Built]) -> Outcome:
                request = planned.request(inputs, False, () if inputs else external)
                outcome = store.materialize(request, build, "run")
                LineageStore(store).catch_up()
                return outcome

            def mix(out: Path) -> Built:
                member = Member(NAME, NAME, source, made[1].artifact.folder, made[0].artifact.folder)
                return mixture.build_mixture(recipe.mixture, [member], {}, out)

            made: list[Outcome] = []
            made += [publish(flow.raw(NAME), (), lambda out: raw.build_raw(NAME, source, files, out))]
            of_raw = (made[0].artifact,)
            made += [
                publish(flow.pairs(NAME), of_raw, lambda out: build_pair_set(NAME, pair_set, of_raw[0].folder, out))
            ]
            made += [publish(flow.mixture(recipe), (made[1].artifact,), mix)]
            return [outcome.artifact.asset for outcome in made if outcome.reused]

        return start

    def prepare_training(self) -> Start:
        """Return what trains on a toy task and publishes the model, with the library's calls alone."""
        from rm_workflow.models.tokens import Encoder
        from rm_workflow.training import checkpoint, reloading
        from rm_workflow_tests.training import toy

        folder, num_pairs = self.project.folder, 22
        encoder = Encoder.load(folder / "base", toy.TOKENS)
        tokens = toy.write_tokens(folder / "tokens", encoder, toy.rows(num_pairs))
        recipe = toy.recipe(epochs=3, logging_steps=1, save={"minutes": None, "steps": INTERVAL, "keep": 2})
        config = toy.write_run_config(folder / "run_config.json", toy.resolved(recipe, encoder, num_pairs))
        request = Request("toy_checkpoint", "checkpoint", "1", {}, requested="toy")

        def start(home: Path) -> list[str]:
            store = ArtifactStore(home)
            store.sweep()

            def build(out: Path) -> Built:
                work = store.work_folder(request.asset, request.version)
                # As the asset does: what ended well is not trained again.
                if not (work / "result.json").is_file():
                    checkpoint.train(config, tokens, folder / "base", work, None, reloading.here)
                shutil.copytree(work / "model", out / "model")
                return Built({})

            outcome = store.materialize(request, build, "run")
            store.clear_work(request.asset, request.version)
            return [request.asset] if outcome.reused else []

        return start

    def prepare_assets(self, until: str) -> Start:
        """Return what runs the recipe up to a stage as ``rmw run`` does, but in this process."""
        import dagster as dg

        from rm_workflow.assets import checkpoints, headless
        from rm_workflow.definitions import build_definitions
        from rm_workflow.training import checkpoint, reloading

        catalog = self.catalog()
        job = build_definitions(catalog).resolve_job_def(NAME)
        defined: Any = SimpleNamespace(resolve_job_def=lambda name: job)

        def train_here(context: dg.AssetExecutionContext, command: Sequence[str]) -> None:
            arguments = dict(itertools.pairwise(command))
            run_config, tokens, base, out = (
                Path(arguments[name]) for name in ("--run-config", "--tokens", "--base", "--out")
            )
            checkpoint.train(run_config, tokens, base, out, None, reloading.here)

        def start(home: Path) -> list[str]:
            os.environ.update(self.environment(home))
            checkpoints.run_trainer = train_here
            headless.open_instance = lambda settings: dg.DagsterInstance.ephemeral()
            recipe = catalog.recipes[NAME]
            finished = headless.run_recipe(load_settings(), catalog, recipe, {}, until, lambda _: defined)
            return [name for name, asset in finished.assets.items() if asset.reused]

        return start

    def start_rmw(self, home: Path, until: str = "card") -> subprocess.Popen[bytes]:
        """Start the real command line as the leader of a process group."""
        command = [sys.executable, "-m", "rm_workflow.cli.main", "run", NAME, "--until", until]
        return subprocess.Popen(
            command,
            cwd=self.project.folder,
            env={**os.environ, **self.environment(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
