import json
from collections.abc import Callable

from rm_workflow_tests.cli.conftest import RECIPE, Answer, Project

Rmw = Callable[..., Answer]


def test_the_verdict_is_told_without_training(project: Project, rmw: Rmw):
    told = json.loads(rmw("overlap", "toy", "--json").out)
    assert told["mixture"].startswith("toy_mixture@")
    assert (told["train"], told["hits"]) == (100, 0)
    assert told["benchmarks"]["test"] == {
        "verdict": "clean",
        "items": 10,
        "leaked_items": 0,
        "train_pairs": 0,
        "train_prompts": 0,
        "train_responses": 0,
    }
    assert project.published() == ["pairs_toy", "raw_toy", "toy_mixture", "toy_overlap"]


def test_a_file_that_the_user_names_is_guarded_and_its_hits_are_shown(project: Project, rmw: Rmw):
    (project.folder / "mine.txt").write_text("question 3?\nQuestion 1003 and more?\n")
    marked = ("--set", "mixture.leak_policy=mark", "--set", 'mixture.decontaminate_files=["mine.txt"]')
    told = json.loads(rmw("overlap", "toy", *marked, "--json").out)
    assert told["benchmarks"]["mine.txt"]["verdict"] == "leaky"
    shown = rmw("overlap", "toy", *marked, "-n", "1").out
    assert "1 of 1 hits" in shown
    assert "toy:train.jsonl:4" in shown
    assert "span: Question 3" in shown
    ran = json.loads(rmw("run", "toy", "--until", "mixture", *marked[2:], "--json").out)
    mixture = f"toy_mixture@{ran['assets']['toy_mixture']['version']}"
    (leak,) = json.loads(rmw("show", mixture, "--dropped", "leak", "--json").out)
    assert leak["detail"].startswith("mine.txt/line 1: exact, user turn 1, 100 % of its words")


def test_paths_of_a_recipe_start_from_its_file(project: Project, rmw: Rmw):
    (project.folder / "catalog/recipes/mine.txt").write_text("Question 3?\n")
    project.write_catalog(recipe=RECIPE.replace("split:", "decontaminate_files: [mine.txt]\n  split:"))
    counted = json.loads(rmw("counts", "toy", "--json").out)
    assert counted["mixtures"]["toy_mixture"]["dropped"]["leak"] == 1


def test_a_missing_or_unreadable_file_is_one_sentence(project: Project, rmw: Rmw):
    def refused(name: str) -> str:
        answer = rmw("overlap", "toy", "--set", f'mixture.decontaminate_files=["{name}"]')
        assert answer.code == 1
        return answer.err.splitlines()[-1]

    assert "there is no file" in refused("absent.txt")
    assert "neither a .txt nor a .jsonl file" in refused("rows.csv")
    (project.folder / "bad.jsonl").write_text('{"prompt": "a"}\nno json\n')
    assert "bad.jsonl: line 2 is not JSON" in refused("bad.jsonl")
    (project.folder / "empty.txt").write_text("\n")
    assert "empty.txt has no text to compare with" in refused("empty.txt")
