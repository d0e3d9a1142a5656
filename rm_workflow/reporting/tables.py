"""The tables of card and report: rows whose keys are the columns, texts and numbers ready to be read."""

from collections.abc import Mapping, Sequence
from typing import Any

from rm_workflow.evaluation.verifiers import baseline_rows, method_rows, published_rows
from rm_workflow.preferences import counts
from rm_workflow.reporting.evidence import SAMPLES, TEST, Evidence
from rm_workflow.reporting.words import (
    NOT_MEASURED,
    artifact_name,
    duration,
    fraction,
    interval,
    number,
    plural,
    rank,
    standing_note,
    with_interval,
)

Rows = list[dict[str, Any]]
# Of a figure whose whole interval lies below what choosing at random reaches.
WORSE = "worse than chance"
BEST_OF_N_METHODS = ("pass", "majority", "weighted_majority", "best_of_n")

PROMPT_ABLATED = "prompt_ablated"
NULL_NAMES = {
    "pick_longer": "pick the longer",
    "pick_shorter": "pick the shorter",
    PROMPT_ABLATED: "without the prompt",
    "longest": "the longest solution",
}
FRAMEWORKS = ("rm-workflow", "trl", "transformers", "peft", "torch", "accelerate", "tokenizers", "safetensors")


def summary(evidence: Evidence) -> Rows:
    """Return what was trained, how, on what and for how long."""
    config, result = evidence.run_config, evidence.result
    training = config["training"]
    values = {
        "base model": evidence.about["base"],
        "objective": config["objective"],
        "method": _method(training),
        "quantisation": "none",
        "precision": f"{_precision(config['precision'])}, saved as {training['save_dtype']}",
        "data": ", ".join(evidence.about["sources"]),
        f"train {evidence.trained_on}": number(config["num_train_pairs"]),
        "test pairs": number(_num_test(evidence)),
        "hardware": hardware(evidence),
        "wall time of training": duration(result["seconds"]),
        "peak memory": f"{result['peak_memory_gb']:.1f} GB" if result.get("peak_memory_gb") else "not recorded",
        "epochs": number(training["epochs"]),
        "optimiser steps": number(result["num_steps"]),
        "batch": batch(evidence),
        "learning rate": _learning_rate(config),
        "optimiser": _optimiser(training),
        "longest input": _longest(evidence.token_recipe),
        "parameters": f"{result['num_parameters']:,}, {result['num_trainable_parameters']:,} of them trained",
        "seed": number(config["seed"]),
        "frameworks": frameworks(evidence),
    }
    return [{"what": what, "value": value} for what, value in values.items()]


def _longest(recipe: Mapping[str, Any]) -> str:
    return f"{recipe['max_length']:,} tokens; longer: {recipe['over_length']}"


def _method(training: Mapping[str, Any]) -> str:
    lora = training["lora"]
    if not lora:
        return "all weights"
    targets = lora["target_modules"]
    where = targets if isinstance(targets, str) else ", ".join(targets)
    return f"LoRA (r {lora['r']}, alpha {lora['alpha']}, dropout {lora['dropout']:g}, {where}), merged into the model"


def _precision(precision: str) -> str:
    return {"bf16": "bf16 (autocast; head and loss in float32)", "fp32": "float32"}[precision]


def _num_test(evidence: Evidence) -> int:
    facts = evidence.first("tokens").facts
    return int(facts.get("test_pairs", facts["test"]))


def hardware(evidence: Evidence) -> str:
    """Return what the checkpoint was trained on, as far as it was recorded."""
    result = evidence.result
    known = result.get("hardware")
    name = known["name"] if known else f"{result['device']} (its name was not recorded)"
    cores = f", {plural(known['cores'], 'core')}" if known and known.get("cores") else ""
    processes = result.get("num_processes", 1)
    together = f", {processes} processes ({result['strategy']})" if processes > 1 else ""
    return name + cores + together


def batch(evidence: Evidence) -> str:
    """Return the batch as micro-batches x accumulation."""
    training, micro = evidence.run_config["training"], evidence.micro_batches_per_step
    size, budget = training["batch_size"], f"up to {training['micro_batch_tokens']:,} tokens each"
    if micro is None:
        return f"{size} {evidence.unit}, accumulated from micro-batches of {budget}"
    return (
        f"{size} {evidence.unit} = {size / micro:.1f} a micro-batch x {micro:.1f} accumulated, on average (cut by "
        f"length, {budget})"
    )


def _learning_rate(config: Mapping[str, Any]) -> str:
    training = config["training"]
    return f"{training['learning_rate']:g}, {training['schedule']}, {plural(config['warmup_steps'], 'warm-up step')}"


def _optimiser(training: Mapping[str, Any]) -> str:
    return (
        f"{training['optimizer']}, weight decay {training['weight_decay']:g}, gradient norm cut at "
        f"{training['max_grad_norm']:g}"
    )


def frameworks(evidence: Evidence) -> str:
    """Return the versions of the packages that shaped the checkpoint."""
    packages = evidence.checkpoint.manifest["packages"]
    return ", ".join(f"{name} {packages[name]}" for name in FRAMEWORKS if name in packages)


def progress(evidence: Evidence) -> Rows:
    """Return loss and accuracy of the first steps and of the last ones, as they were while training."""
    first, final = evidence.first_line, evidence.final
    result = evidence.result
    rows: Rows = [
        {"when": "before training", "loss": fraction(result.get("loss_before_training")), "accuracy": ""},
        {
            "when": "first step" if first["step"] == 1 else f"first {first['step']} steps",
            "loss": fraction(first["loss"]),
            "accuracy": fraction(first["accuracy"]),
        },
        {
            "when": "last step" if final["steps"] == 1 else f"last {final['steps']} steps",
            "loss": fraction(final["loss"]),
            "accuracy": fraction(final["accuracy"]),
        },
    ]
    if evidence.validations:
        last = evidence.validations[-1]
        rows.append(
            {
                "when": "held-out train pairs",
                "loss": fraction(last.get("loss")),
                "accuracy": fraction(last.get("accuracy")),
            }
        )
    return rows


def scores(evidence: Evidence) -> Rows:
    """Return one row a benchmark: score, interval, items, ties, baselines, contamination verdict."""
    return [
        {
            "benchmark": name,
            "score": fraction(one["score"]),
            "95 % interval": interval(one),
            "n": number(one["n"]),
            "ties": "" if one.get("ties") is None else number(one["ties"]),
            "baselines": nulls(evidence, name),
            "train data": contamination(evidence, name),
        }
        for name, one in evidence.headlines.items()
    ]


def scored_with(evidence: Evidence) -> str:
    """Return a sentence on the precision of the scores."""
    if evidence.scores is None:
        return ""
    facts = evidence.scores.facts
    if facts["precision"] == "fp32":
        return f"Scored in float32 on {facts['device']}."
    return (
        f"Scored in bf16 on {facts['device']}: rewards differ from those in float32 by rounding, and with the rows "
        "that lie beside them unless the scoring is deterministic."
    )


def nulls(evidence: Evidence, benchmark: str) -> str:
    """Return the baselines of a benchmark in one line."""
    found = evidence.nulls(benchmark).items()
    told = [
        f"{NULL_NAMES.get(name, name.replace('_', ' '))} {value:.3f}{_on_some(evidence, benchmark, name)}"
        for name, value in found
    ]
    return ", ".join(told) or "not measured"


def _null_name(null: str) -> str:
    return NULL_NAMES.get(null, null.replace("_", " "))


def _on_some(evidence: Evidence, benchmark: str, null: str) -> str:
    """Return on how many items a baseline was scored where these are not all."""
    found = ((evidence.analysis.get(benchmark) or {}).get("nulls") or {}).get(null)
    return f" (n {found['n']:,})" if null == PROMPT_ABLATED and found else ""


def contamination(evidence: Evidence, benchmark: str) -> str:
    """Return the verdict on a benchmark with the number of its items that train pairs hold."""
    found = evidence.overlap[benchmark]
    if found["verdict"] == "leaky":
        beside = ""
        if evidence.is_of_clean_items(benchmark):
            beside = f", left out here; with them {with_interval(evidence.headlines[benchmark]['all_items'])}"
        items = "prompts" if benchmark == TEST else "items"
        return f"leaky: {found['leaked_items']:,} of {found['items']:,} {items}{beside}"
    return str(found["verdict"])


def parts(evidence: Evidence, benchmark: str) -> Rows:
    """Return one row for each source, section or subset of a benchmark."""
    return [
        {
            "part": name,
            "score": fraction(one.get("score")),
            "95 % interval": interval(one),
            "n": number(one["n"]) if one.get("n") is not None else "",
            "pick the longer": fraction(one["pick_longer"]) if one.get("pick_longer") is not None else None,
        }
        for name, one in evidence.parts(benchmark).items()
    ]


def funnel(evidence: Evidence) -> Rows:
    """Return one row for what came into each stage and one for each of its rules."""
    return [
        {
            "stage": row["stage"].replace("_", " "),
            "name": row["name"],
            "rule": row["rule"],
            "dropped": number(row["dropped"]) if row["rule"] not in INCOMING else "",
            "left": number(row["after"]),
        }
        for row in counts.funnel(evidence.counts)
    ]


# What the first row of a stage counts.
INCOMING = ("rows", "candidates", "pairs", "responses", "trajectories")


def used_rules(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the rows of a funnel without the rules that dropped nothing."""
    return [dict(row) for row in rows if row["dropped"] != "0"]


def by_source(evidence: Evidence) -> Rows:
    """Return one row a source: where it is from, rows, and what of it stands in train and test."""
    sides = evidence.first("mixture").facts.get("sources", {})
    rows = []
    for name, source in evidence.about["sources"].items():
        counted = evidence.counts["sources"].get(name, {})
        side = sides.get(name, {})
        rows.append(
            {
                "source": name,
                "from": source["origin"],
                "licence": source["licence"],
                "rows": number(counted.get("rows", "")),
                "used": number(counted.get("used", "")),
                "train": number(side.get("train", 0)),
                "test": number(side.get("test", 0)),
                "schema seen in": _seen(source),
            }
        )
    return rows


def _seen(source: Mapping[str, Any]) -> str:
    if source["origin"].startswith(SAMPLES):
        return "generated rows"
    return "real rows" if source["real_rows"] else "rows written by hand"


def licence_terms(evidence: Evidence) -> Rows:
    """Return the licences and terms of sources, generators and base model."""
    return [
        {
            "of": entry["of"],
            "name": entry["name"],
            "licence": entry["licence"],
            "commercial use": entry["commercial_use"],
            "condition": entry["note"],
        }
        for entry in evidence.about["licences"]["terms"]
    ]


def calibration(evidence: Evidence) -> Rows:
    """Return the figures of calibration that were measured."""
    found = evidence.test_analysis("calibration") or {}
    half = f"the {number(found['n_evaluated'])} pairs it was not fitted on" if found.get("temperature") else ""
    named = {
        "expected calibration error (ECE)": "ece",
        "temperature, fitted on half of the pairs": "temperature",
        f"ECE of {half}": "ece_before_temperature",
        "the same after the temperature": "ece_after_temperature",
        "Brier score": "brier",
        "negative log likelihood": "nll",
    }
    return [
        {"figure": name, "value": _with_reach(found, key)} for name, key in named.items() if found.get(key) is not None
    ]


def _with_reach(found: Mapping[str, Any], key: str) -> str:
    reach = found.get(f"{key}_interval")
    return fraction(found[key]) + (f" ({reach[0]:.3f} to {reach[1]:.3f})" if reach else "")


def length(evidence: Evidence) -> Rows:
    """Return what length does to the test scores, as far as it was measured."""
    found = evidence.test_analysis("length") or {}
    rows = [
        {"figure": f"accuracy where the chosen reply is the {which}", "value": with_interval(found[key])}
        for key, which in (("chosen_longer", "longer"), ("chosen_shorter", "shorter"))
        if found.get(key)
    ]
    correlations = {
        "spearman_margin_length": "Spearman correlation of margin and difference of lengths",
        "spearman_reward_length": "Spearman correlation of reward and length",
    }
    rows += [
        {"figure": name, "value": f"{found[key]:+.3f}"}
        for key, name in correlations.items()
        if found.get(key) is not None
    ]
    flip = evidence.test_analysis("flip", "holds")
    if flip is not None:
        rows.append({"figure": "with swapped sides, accuracy = 1 - accuracy - ties", "value": "yes" if flip else "no"})
    return rows


def probes(evidence: Evidence) -> Rows:
    """Return what each rewrite of replies does to the reward."""
    return [
        {
            "rewrite": name.replace("_", " "),
            "what is done": one["description"],
            "good model": one["expected"],
            "replies": _on_one_line(f"{one['num_changed']:,} of {one['num_replies']:,}"),
            "change": _on_one_line(change(one["change"]["all"])),
            "rises": _on_one_line(with_interval(one["rises"])) if one["rises"] else "",
            "rejected wins": _before_and_after(one["rejected_wins"]),
            "accuracy": _before_and_after(one["accuracy"]),
        }
        for name, one in evidence.rewrites.items()
    ]


def change(found: Mapping[str, Any] | None) -> str:
    """Return a mean change of rewards with its interval as ``+0.21 (+0.10 to +0.32)``."""
    if not found:
        return NOT_MEASURED
    inside = "" if found["ci_low"] is None else f" ({found['ci_low']:+.2f} to {found['ci_high']:+.2f})"
    return f"{found['mean']:+.2f}{inside}"


def _before_and_after(found: Mapping[str, Any] | None) -> str:
    return " → ".join(_on_one_line(with_interval(found[when])) for when in ("before", "after")) if found else ""


def _on_one_line(text: str) -> str:
    """Return a text that a browser does not break."""
    return text.replace(" ", "\u00a0")


def without_prompt(evidence: Evidence) -> str:
    """Return the accuracy with and without the prompt as one sentence, or an empty text where it was not measured."""
    found = evidence.probes.get(PROMPT_ABLATED)
    if not found or not found["without_prompt"]:
        return ""
    gap = found["difference"]
    return (
        f"Without the prompt (replies behind {found['behind']}) it is right on "
        f"{with_interval(found['without_prompt'])} of the test pairs, with it on {with_interval(found['with_prompt'])} "
        f"of the same ones: the prompt is worth {gap['mean']:+.3f} ({gap['ci_low']:+.3f} to {gap['ci_high']:+.3f})."
    )


def examples(evidence: Evidence) -> Rows:
    """Return, for each rewrite, the replies whose reward it moves most."""
    return [
        {
            "rewrite": name.replace("_", " "),
            "end of the prompt": one["prompt"],
            "reply": f"({one['side']}) {one['reply']}",
            "before": f"{one['before']:+.2f}",
            "after": f"{one['after']:+.2f}",
        }
        for name, found in evidence.rewrites.items()
        for one in found["examples"]
    ]


def fit_rules(use: Mapping[str, Any]) -> Rows:
    """Return the rules of one use as ``fit_for_use`` judged them."""
    return [
        {
            "figure": rule["figure"],
            "measured": _measured(rule),
            "needed": "" if rule["threshold"] is None else f"{rule['side']} {rule['threshold']:.3f}",
            "outcome": f"{rule['outcome']}: {WORSE}" if rule["is_worse_than_chance"] else rule["outcome"],
            "why": rule["why"],
        }
        for rule in use["rules"]
    ]


def _measured(rule: Mapping[str, Any]) -> str:
    told = with_interval({**rule, "score": rule["value"]})
    if rule["value"] is not None and None in (rule["ci_low"], rule["ci_high"]):
        told += ", without interval, which decides nothing"
    return f"{told}, less {rule['leaked']:.3f} for leaked items" if rule["leaked"] else told


def tokens(evidence: Evidence) -> Rows:
    """Return the token recipe."""
    recipe = evidence.token_recipe
    values = {
        "template": recipe["template"],
        "hash of the template (sha256)": recipe["template_hash"],
        "system turn": recipe["system_turn"],
        "begins with BOS": "yes" if recipe["starts_with_bos"] else "no",
        "BOS, EOS, pad token": ", ".join(str(recipe[f"{name}_token_id"]) for name in ("bos", "eos", "pad")),
        "reward is read at": f"the last token of the conversation (here token {recipe['end_token_id']})",
        "longest input": _longest(recipe),
        "date that templates may print": recipe["date"],
    }
    return [{"what": what, "value": value} for what, value in values.items()]


def lineage(evidence: Evidence, digits: int | None = None) -> Rows:
    """Return the chain from the checkpoint back to its raw files, versions cut to so many digits."""
    return [
        {
            "kind": row["kind"],
            "name": row["name"],
            "version": row["version"][:digits],
            "made from": ", ".join(row["made_from"]),
        }
        for row in evidence.lineage()
    ]


def leaderboard(rows: Sequence[Mapping[str, Any]], this: str) -> Rows:
    """Return the standings on one benchmark; the checkpoint with the id ``this`` is marked."""
    return [
        {
            "": "this one" if row["checkpoint"] == this else "",
            "checkpoint": row["checkpoint"] if row["published"] else artifact_name(row["checkpoint"], row["run"]),
            "score": fraction(row["score"]),
            "95 % interval": interval(row),
            "n": number(row["n"]) if row["n"] else "",
            "rank": rank(row),
            "train data": row["contamination"],
            "note": standing_note(row),
        }
        for row in rows
    ]


def best_of_n(evidence: Evidence, benchmark: str) -> Rows:
    """Return one row for each method at the largest number of candidates, then baselines and published figures."""
    result = evidence.best_of_n[benchmark]
    ours = method_rows(benchmark, result, BEST_OF_N_METHODS)
    return [
        {
            "method": row["method"].replace("_", " "),
            "score": fraction(row["score"]),
            "95 % interval": interval(row),
            "who picks": row["verifier"] or "",
            "source": ("published: " + "; ".join(filter(None, (row["source"], row["note"]))))
            if row["published"]
            else "",
        }
        for row in [*ours, *baseline_rows(benchmark, result), *published_rows(benchmark)]
    ]


def against_baselines(evidence: Evidence, benchmark: str) -> Rows:
    """Return the difference of each method that reads scores to each baseline, paired by problem."""
    return [
        {
            "method": row["method"].replace("_", " "),
            "baseline": row["baseline"].replace("_", " "),
            "difference": f"{row['difference']:+.3f}",
            "95 % interval": interval(row),
            "verdict": row["verdict"],
        }
        for row in evidence.best_of_n[benchmark]["against_nulls"]
    ]


def best_of_n_words(evidence: Evidence, benchmark: str) -> str:
    """Return what best-of-N was computed from, and how far gold falls where the score goes on rising."""
    result = evidence.best_of_n[benchmark]
    counts = result["counts"]
    told = (
        f"{counts['problems']:,} problems with {counts['least_candidates']:,} candidates each; "
        f"{counts['without_answer']:,} candidates without an answer vote for nothing; answers are compared by "
        f"{result['equivalence']}, votes of subsets are {result['draws']} seeded draws, or all subsets where there are "
        "fewer. Intervals are of a bootstrap over problems."
    )
    for name, curve in result["over_optimisation"].items():
        drop = curve["drop"]
        if drop and drop["ci_low"] > 0:
            of = "" if name == "score" else f" (by {name})"
            most = result["counts"]["least_candidates"]
            fall = f"{drop['score']:.3f} ({drop['ci_low']:.3f} to {drop['ci_high']:.3f})"
            if curve["peak_n"] == 1:
                told += (
                    f" Ranking by this model does not help{of}: the best of {most:,} is right less often than one "
                    f"candidate at random, by {fall}."
                )
            else:
                told += (
                    f" Best-of-n{of} is right most often with {curve['peak_n']:,} candidates; with {most:,} it is "
                    f"lower by {fall}."
                )
    return told


def published(evidence: Evidence) -> str:
    """Return what the publisher of the system that the recipe repeats reports, or an empty text."""
    told, test = evidence.about["published"], evidence.headlines.get(TEST)
    sentences = []
    if told["accuracy"]:
        ours = f", the test split here gives {with_interval(test)}" if test else ""
        sentences.append(f"The published card ({told['card']}) reports an accuracy of {told['accuracy']:.3f}{ours}.")
    if told["note"]:
        sentences.append(told["note"].strip())
    return " ".join(sentences)
