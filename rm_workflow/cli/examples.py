"""Examples at the end of each verb's ``--help``; a test checks that they can be written so."""

from collections.abc import Mapping

import typer
from rich.markup import escape

# Verb -> command -> what it is for, in a few words.
EXAMPLES: Mapping[str, Mapping[str, str]] = {
    "init": {
        "rmw init myproject": "a new project",
        "rmw init support --data support_chats --set training.epochs=2": "a recipe, inside of a project",
    },
    "schema": {"rmw schema": "what editors complete, after names that you wrote yourself"},
    "recipes": {"rmw recipes": "", "rmw recipes --json": "for programs"},
    "plan": {
        "rmw plan qwen25_7b_hh_lora --device h100": "steps, memory and hours there",
        "rmw plan quickstart --yaml": "every key, and where it comes from",
    },
    "sources list": {"rmw sources list": ""},
    "sources check": {"rmw sources check sample_dialogues -n 1": "one row of each file"},
    "sources update": {"rmw sources update hh_helpful_base": "what has changed on the hub"},
    "sources add": {
        "rmw sources add rows/chosen.jsonl": "guess adapter and columns",
        "rmw sources add rows/ab.csv --winner a=1 --winner b=2 --winner tie=0": "say what labels mean",
    },
    "run": {
        "rmw run quickstart": "sample rows to scores and card",
        "rmw run ./my.yaml --set training.learning_rate=2e-4 --until checkpoint": "a file, one key changed, a part",
    },
    "counts": {"rmw counts quickstart": "", "rmw counts quickstart --no-run --json": "of what is there, for programs"},
    "overlap": {"rmw overlap quickstart": ""},
    "audit": {"rmw audit quickstart": ""},
    "export": {
        "rmw export quickstart quickstart_pairs": "for TRL and datasets",
        "rmw export quickstart_mixture flat --format standard --margin": "whole conversations, with margins",
    },
    "import": {
        "rmw import hub:Skywork/Skywork-Reward-Llama-3.1-8B-v0.2 skywork": "a published model",
        "rmw import ./my-reward-model mine": "a folder of your own",
    },
    "show": {
        "rmw show pairs_sample_ratings": "pairs",
        "rmw show quickstart_mixture --dropped leak -n 3": "what a rule dropped",
        "rmw show quickstart_scores": "scores, calibration, probes",
    },
    "lineage": {
        "rmw lineage quickstart_scores --files": "the raw files behind a score",
        "rmw lineage rebuild": "make the index anew",
    },
    "trace": {"rmw trace sample_dialogues:train.jsonl:12": "one raw row"},
    "score": {
        "rmw score quickstart_checkpoint rows.jsonl -o scored.jsonl": "a file; killed, the same command goes on",
        "rmw score hub:org/name - -o -": "stdin to stdout, a model of the hub",
    },
    "rank": {
        "rmw rank quickstart_checkpoint lists.jsonl -o ranked.parquet": "several replies to each prompt, the best told"
    },
    "filter": {"rmw filter quickstart_checkpoint pairs.jsonl -o good.jsonl --min-margin 0.5": "pairs that are clear"},
    "serve": {"rmw serve quickstart_checkpoint --port 8420": "on loopback; documentation at /docs"},
    "aggregate": {"rmw aggregate rewardbench2 items.jsonl": "", "rmw aggregate best-of-n items.jsonl --json": ""},
    "evaluate": {"rmw evaluate quickstart_checkpoint --benchmark sample_rewardbench2 -o items.jsonl": ""},
    "compare": {
        "rmw compare quickstart_checkpoint@c2b7 quickstart_checkpoint": "two versions, on all that both were scored on",
        "rmw compare a.jsonl b.jsonl --benchmark rewardbench": "item scores of any models",
    },
    "leaderboard": {"rmw leaderboard --benchmark test": ""},
    "runs": {"rmw runs rb2_llama31_70b_mini": ""},
    "promote": {"rmw promote 'rb2_llama31_70b_mini_checkpoint[hh__lr5e-4__s1]'": "a run of a sweep"},
    "rollback": {"rmw rollback rb2_llama31_70b_mini": ""},
    "funnel": {"rmw funnel quickstart": ""},
    "history": {
        "rmw history pairs_sample_ratings --plot counts.png": "",
        "rmw history --source sample_ratings --rule cap": "",
    },
    "diff": {"rmw diff quickstart_checkpoint@c2b7 quickstart_checkpoint": ""},
    "shared": {"rmw shared quickstart_mixture pairs_sample_ratings": ""},
    "worst": {"rmw worst quickstart_checkpoint --source sample_ratings -n 3": ""},
    "card": {"rmw card quickstart_checkpoint -o card.md": ""},
    "report": {"rmw report quickstart -o report.html": "one recipe", "rmw report -o all.html": "all of them"},
    "push": {"rmw push quickstart_checkpoint org/name --dry-run": "what would be uploaded"},
    "doctor": {"rmw doctor": ""},
    "verify": {"rmw verify": "all that was published", "rmw verify quickstart_checkpoint": ""},
    "gc": {"rmw gc": "what could go", "rmw gc --keep 1 --yes": "all but the newest of each asset"},
    "ui": {"rmw ui --port 3001": "http://127.0.0.1:3001"},
}


def lines(verb: str) -> list[str]:
    """Return the examples of a verb as lines, each with its words behind ``#``."""
    examples = EXAMPLES.get(verb, {})
    width = max(map(len, examples), default=0)
    return [f"{command:<{width}}   # {told}" if told else command for command, told in examples.items()]


def add_to(app: typer.Typer, group: str = "") -> None:
    """Let the help of every verb of ``app`` end with its examples."""
    for command in app.registered_commands:
        assert command.name is not None
        found = lines(f"{group}{command.name}")
        if found:
            # Paragraphs are what rich's help keeps apart.
            command.epilog = "\n\n".join(map(escape, ["Examples:", *found]))
    for inner in app.registered_groups:
        if inner.typer_instance is not None:
            add_to(inner.typer_instance, f"{inner.name} ")
