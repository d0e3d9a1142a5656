from rm_workflow.assets.scores import probe_share_rows

INJECTION = {
    "rises": 0.675,
    "rises_interval": [0.52, 0.799],
    "rises_n": 40,
    "rejected_wins_before": 0.4,
    "rejected_wins_before_interval": [0.219, 0.613],
    "rejected_wins_before_n": 20,
    "rejected_wins_after": 0.55,
    "rejected_wins_after_interval": [0.342, 0.742],
    "rejected_wins_after_n": 20,
    "accuracy_before": None,
    "accuracy_after": None,
}


def test_shares_of_rewritten_replies_stand_with_interval_and_number():
    (row,) = probe_share_rows({"probes": {"rewrites": {"injection": INJECTION}}})
    assert row == {
        "rewrite": "injection",
        "rises": "0.675 (0.520 to 0.799, n 40)",
        "rejected_wins_before": "0.400 (0.219 to 0.613, n 20)",
        "rejected_wins_after": "0.550 (0.342 to 0.742, n 20)",
        "accuracy_before": "",
        "accuracy_after": "",
    }


def test_scores_that_were_made_before_intervals_were_kept_are_still_shown():
    older = {name: value for name, value in INJECTION.items() if not name.endswith(("_interval", "_n"))}
    (row,) = probe_share_rows({"probes": {"rewrites": {"injection": older}}})
    assert row["rejected_wins_after"] == "0.550"
