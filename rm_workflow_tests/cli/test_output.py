import io
import json
from collections.abc import Callable

import pytest

from rm_workflow.cli.main import main
from rm_workflow.cli.output import for_terminal, print_table
from rm_workflow_tests.cli.conftest import Answer, Project, lines, row

Rmw = Callable[..., Answer]

CLEARS_SCREEN = "\x1b[2J\x1b]0;title\x07"


def test_control_characters_are_spelled_out_and_line_breaks_and_tabs_stay():
    assert for_terminal("a\x1b[2J\tb\nc\r\x07\x7f\x9b é") == r"a\x1b[2J" + "\tb\nc" + r"\r\x07\x7f\x9b é"


def test_text_that_would_be_shown_backwards_is_spelled_out():
    assert for_terminal("\u202egnp.exe \u2067b\u2069 שלום") == r"\u202egnp.exe \u2067b\u2069 שלום"


def test_half_of_a_surrogate_pair_is_spelled_out():
    assert for_terminal("intruder\udc80 \ud800") == r"intruder\udc80 \ud800"


@pytest.mark.parametrize(
    "verb", [("funnel", "NAME"), ("diff", "NAME", "x"), ("shared", "NAME", "x"), ("worst", "NAME"), ("verify", "NAME")]
)
def test_half_of_a_surrogate_pair_in_an_error_is_spelled_out(
    project: Project, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
):
    # A terminal's stderr escapes it anyway; one that is caught in memory takes it as it is.
    told = io.StringIO()
    monkeypatch.setattr("sys.stderr", told)
    monkeypatch.setattr("sys.argv", ["rmw", *(word.replace("NAME", "intruder\udc80") for word in verb)])
    with pytest.raises(SystemExit):
        main()
    told.getvalue().encode()


@pytest.fixture
def hostile(project: Project) -> Project:
    """A project in which one prompt holds terminal escapes."""
    project.write_rows(json.dumps({**row(0), "prompt": CLEARS_SCREEN}) + "\n" + lines(range(1, 30)))
    return project


def test_terminal_escapes_in_rows_are_never_printed(hostile: Project, rmw: Rmw):
    assert rmw("counts", "toy").code == 0
    for verb in (
        ("show", "pairs_toy", "-n", "50"),
        ("show", "raw_toy", "-n", "50"),
        ("trace", "toy:train.jsonl:1"),
        ("sources", "check", "toy"),
    ):
        answer = rmw(*verb)
        assert answer.code == 0, answer.err
        assert r"\x1b[2J\x1b]0;title\x07" in answer.out
        assert "\x1b" not in answer.out


def test_json_keeps_the_text_itself(hostile: Project, rmw: Rmw):
    preview = json.loads(rmw("sources", "check", "toy", "--json").out)
    assert preview["files"][0]["rows"][0]["messages"][0]["content"] == CLEARS_SCREEN


def test_terminal_escapes_in_an_error_are_never_printed(project: Project, rmw: Rmw):
    project.write_rows(json.dumps({"\x1b[2Jprompt": "Hi?"}) + "\n")
    answer = rmw("sources", "check", "toy")
    assert "\x1b" not in answer.out + answer.err
    assert r"\x1b[2Jprompt" in answer.error


WIDE = [
    {
        "checkpoint": f"quickstart_checkpoint@{number:032x}",
        "benchmark": "sample_rewardbench2",
        "score": 0.5,
        "note": None,
    }
    for number in (1, 2)
]


def test_a_table_that_does_not_fit_a_narrow_terminal_is_printed_row_by_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    print_table("leaderboard", WIDE)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 60
    assert [line.split() for line in printed.splitlines()[:6]] == [
        ["leaderboard"],
        [],
        ["checkpoint", f"quickstart_checkpoint@{1:032x}"[:48]],
        [f"quickstart_checkpoint@{1:032x}"[48:]],
        ["benchmark", "sample_rewardbench2"],
        ["score", "0.500"],
    ]
    assert "note" not in printed
    assert "\x1b" not in printed


def test_a_wide_table_breaks_lines_between_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "100")
    names = ("part", "A", "B", "difference", "95 % interval", "p", "Cohen's h", "only A / B", "n", "verdict")
    values = ("overall", 0.56, 0.52, 0.043, "-0.058 to 0.143", "0.48", 0.085, None, 188, "not distinguishable, so far")
    print_table("compared", [dict(zip(names, values, strict=True))])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    for word in ("difference", "interval", "distinguishable"):
        assert word in printed


def test_a_narrow_funnel_names_the_rules_that_removed_nothing_in_one_line(
    project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch
):
    project.write_rows(lines(range(1, 120)) + "{no json\n")
    monkeypatch.setenv("COLUMNS", "60")
    printed = rmw("counts", "toy").out
    assert max(map(len, printed.splitlines())) <= 60
    assert "sources: toy, 130 rows" in printed
    assert "broken_line │       1 │   129" in printed
    told = " ".join(printed.split())
    assert "rules that removed nothing: bad_field, context_differs, empty_message, not_alternating" in told
    assert len(printed.splitlines()) < 40


def test_a_table_that_fits_stays_a_table_at_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "60")
    print_table(
        "recipes", [{"name": "quickstart", "description": "some words that fold over several lines " * 3, "n": 3}]
    )
    assert "┃ name" in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "140")
    print_table("leaderboard", WIDE)
    assert "┃ checkpoint" in capsys.readouterr().out
