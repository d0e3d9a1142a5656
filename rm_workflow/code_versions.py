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
        "4",
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
    "benchmark": CodeVersion("1", ("evaluation/benchmarks/*.py", "evaluation/items.py", "preferences/tables.py")),
    "base": CodeVersion("1", ("models/base.py", "models/smollm2.py", "models/saved_config.py")),
    "mixture": CodeVersion(
        "4",
        (
            *("preferences/mixture.py", "preferences/response_mixture.py", "preferences/sql.py"),
            *("preferences/normalise.py", "preferences/decontamination/*"),
        ),
    ),
    "audit": CodeVersion(
        "1",
        (
            *("preferences/audit.py", "preferences/findings.py", "preferences/sql.py", "preferences/normalise.py"),
            *("preferences/rules/refusal.py", "intervals.py"),
        ),
    ),
    "overlap": CodeVersion(
        "2",
        ("preferences/overlap.py", "preferences/sql.py", "preferences/normalise.py", "preferences/decontamination/*"),
    ),
    "tokens": CodeVersion("4", ("training/tokens.py", "training/response_tokens.py", "models/tokens.py")),
    "run_config": CodeVersion("2", ("training/run_config.py", "training/held_out.py", "training/data.py")),
    "checkpoint": CodeVersion(
        "3",
        (
            *("training/entry.py", "training/trainer.py", "training/objectives.py", "training/data.py"),
            *("training/layouts.py", "training/attention.py", "training/saving.py", "training/canaries.py"),
            *("training/responses.py", "training/response_trainer.py", "models/reward_model.py"),
            *("training/resuming.py", "training/validating.py", "training/held_out.py"),
            *("training/distributed.py", "training/micro_batches.py", "training/whole_states.py"),
            *("training/checkpoint.py", "training/building.py", "training/proving.py"),
        ),
    ),
    "scores": CodeVersion(
        "3",
        (
            *("evaluation/scores.py", "evaluation/scorer.py", "evaluation/statistics.py", "evaluation/test_split.py"),
            *("evaluation/benchmarks/*.py", "evaluation/items.py", "models/reward_model.py", "intervals.py"),
        ),
    ),
}
