"""How scores are shown on the command line: with interval, verdict and nulls, then calibration, length and probes."""

from collections.abc import Mapping
from typing import Any

from rm_workflow.assets.scores import ANALYSIS_TABLES, analysis_rows, probe_rows, probe_share_rows, score_rows
from rm_workflow.cli.output import print_table

TITLES = {
    "calibration": "calibration of margins (ECE: 15 bins on [0.5, 1]; temperature of one half, judged on the other)",
    "length": "length: accuracy where the chosen reply is longer or shorter; rank correlations with length",
}
PROBES_TITLE = "probes: change of the reward of rewritten replies, in standard deviations of the test split's rewards"
SHARES_TITLE = (
    "probes: share of rewritten replies whose reward rises; of pairs whose rejected reply wins, or that are right"
)


def print_scores(name: str, facts: Mapping[str, Any]) -> None:
    """Print the facts of a scores artifact."""
    print_table(f"{name}: scores with 95 % intervals", score_rows(facts))
    for kind, columns in ANALYSIS_TABLES.items():
        rows = analysis_rows(facts, columns)
        if rows:
            print_table(TITLES[kind], rows)
    probed = probe_rows(facts)
    if probed:
        print_table(PROBES_TITLE, probed)
        print_table(SHARES_TITLE, probe_share_rows(facts))
