"""Code versions of the assets: part of every content key, raised by hand when a build's output changes.

``rm_workflow_tests/test_code_versions.py`` compares a hash of the listed files (without comments and docstrings) with
the hash noted when the version was last raised, and says which version to look at.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CodeVersion:
    """Version of the code behind one kind of asset.

    Attributes:
        files: the files whose change may change the output, relative to the package.
    """

    version: str
    files: tuple[str, ...]


CODE_VERSIONS = {
    "raw": CodeVersion(
        "6",
        (
            *("preferences/raw.py", "preferences/understanding.py", "preferences/files.py", "preferences/normalise.py"),
            *("preferences/tables.py", "preferences/adapters/*.py", "keys.py"),
        ),
    ),
    "pairs": CodeVersion(
        "3",
        (
            *("preferences/pairs.py", "preferences/sql.py", "preferences/text.py", "preferences/normalise.py"),
            *("preferences/rules/*.py", "keys.py"),
        ),
    ),
    "benchmark": CodeVersion(
        "2",
        (
            *("evaluation/benchmarks/*.py", "evaluation/items.py", "evaluation/native_rows.py"),
            *("preferences/tables.py", "preferences/splits.py", "preferences/adapters/_steps.py"),
            "evaluation/grading.py",
        ),
    ),
    "base": CodeVersion("1", ("models/base.py", "models/smollm2.py", "models/saved_config.py")),
    "mixture": CodeVersion(
        "5",
        (
            *("preferences/mixture.py", "preferences/labelled_mixture.py", "preferences/response_mixture.py"),
            *("preferences/trajectory_mixture.py", "preferences/sql.py"),
            *("preferences/normalise.py", "preferences/splits.py", "preferences/decontamination/*"),
        ),
    ),
    "rollouts": CodeVersion(
        "1",
        (
            *("annotation/rollouts.py", "annotation/generators.py", "annotation/local.py", "annotation/endpoint.py"),
            *("preferences/adapters/_steps.py", "keys.py"),
        ),
    ),
    "labels": CodeVersion(
        "1",
        (
            *("annotation/step_labels.py", "annotation/rollouts.py", "evaluation/grading.py"),
            *("evaluation/grading_worker.py", "preferences/raw.py", "preferences/tables.py"),
        ),
    ),
    "audit": CodeVersion(
        "2",
        (
            *(
                "preferences/audit.py",
                "preferences/findings.py",
                "preferences/phrases.py",
                "preferences/sql.py",
                "preferences/normalise.py",
            ),
            *("preferences/rules/refusal.py", "intervals.py"),
        ),
    ),
    "overlap": CodeVersion(
        "2",
        ("preferences/overlap.py", "preferences/sql.py", "preferences/normalise.py", "preferences/decontamination/*"),
    ),
    "tokens": CodeVersion(
        "4",
        (
            *("training/tokens.py", "training/response_tokens.py", "models/tokens.py"),
            *("training/solution_tokens.py", "models/solutions.py", "models/readout.py"),
        ),
    ),
    "run_config": CodeVersion(
        "3", ("training/run_config.py", "training/held_out.py", "training/data.py", "training/solutions.py")
    ),
    "checkpoint": CodeVersion(
        "6",
        (
            *("training/entry.py", "training/trainer.py", "training/objectives.py", "training/data.py"),
            *("training/layouts.py", "models/attention.py", "models/segments.py"),
            "models/frozen.py",
            *("training/saving.py", "training/fresh_load.py", "training/reloading.py", "training/canaries.py"),
            *("training/responses.py", "training/response_trainer.py", "models/reward_model.py"),
            *("training/resuming.py", "training/validating.py", "training/held_out.py"),
            *("training/distributed.py", "training/micro_batches.py", "training/whole_states.py"),
            *("training/checkpoint.py", "training/building.py", "training/proving.py"),
            *("training/solutions.py", "training/solution_trainer.py", "models/readout.py"),
        ),
    ),
    "import": CodeVersion(
        "2",
        (
            *("models/importing.py", "models/loading.py", "models/published.py"),
            *("models/tokens.py", "models/readout.py"),
        ),
    ),
    "best": CodeVersion("2", ("evaluation/run_table.py", "evaluation/attribution.py")),
    "transfer": CodeVersion("1", ("evaluation/transfer.py",)),
    "ranked": CodeVersion(
        "1",
        (
            *("evaluation/rejection_sampling.py", "evaluation/scorer.py", "evaluation/sequences.py"),
            *("evaluation/batching.py", "evaluation/steps.py", "models/segments.py", "models/attention.py"),
            *("models/loading.py", "models/readout.py", "models/solutions.py", "models/reward_model.py", "keys.py"),
        ),
    ),
    "sft_dpo": CodeVersion("1", ("evaluation/rejection_sampling.py",)),
    "scores": CodeVersion(
        "7",
        (
            *("evaluation/scores.py", "evaluation/scorer.py", "evaluation/statistics.py", "evaluation/test_split.py"),
            *("evaluation/sequences.py", "evaluation/batching.py", "models/segments.py", "models/attention.py"),
            "evaluation/pass_batches.py",
            *("models/loading.py", "models/published.py", "models/readout.py", "models/solutions.py"),
            *("evaluation/steps.py", "evaluation/best_of_n.py"),
            *("evaluation/analysis.py", "evaluation/bias.py", "evaluation/calibration.py", "evaluation/stored.py"),
            "evaluation/contamination.py",
            *("evaluation/benchmarks/*.py", "evaluation/items.py", "models/reward_model.py", "intervals.py"),
            *("evaluation/composite.py", "evaluation/judged_pairs.py", "evaluation/probes/*.py"),
            *("evaluation/best_of_n.py", "evaluation/two_classes.py", "evaluation/grading.py"),
            "evaluation/grading_worker.py",
        ),
    ),
    "card": CodeVersion(
        "6",
        (
            *("reporting/evidence.py", "reporting/fit_for_use.py", "reporting/model_card.py", "reporting/tables.py"),
            *("reporting/words.py", "reporting/plots.py", "reporting/html_report.py", "reporting/worst_pairs.py"),
            *("reporting/model_card.md.jinja", "reporting/report.html.jinja", "preferences/counts.py"),
            "evaluation/verifiers.py",
        ),
    ),
}
