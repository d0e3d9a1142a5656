"""``rmw score``, ``rmw rank`` and ``rmw filter``: rewards for any rows, the best of several replies, good pairs."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rm_workflow.catalog.names import nearest
from rm_workflow.cli import completion
from rm_workflow.cli.checkpoints import find_checkpoint
from rm_workflow.cli.output import warn
from rm_workflow.errors import UserError
from rm_workflow.evaluation.row_files import STREAM
from rm_workflow.settings import load_settings

if TYPE_CHECKING:
    from rm_workflow.evaluation.row_verbs import Verb
    from rm_workflow.evaluation.score_file import Continued, Tally
    from rm_workflow.evaluation.scorer import Scorer

CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="CKPT",
        help="A folder, an asset, asset@version or hub:org/name[@revision].",
        autocompletion=completion.checkpoints,
    ),
]
PrecisionOption = Annotated[str, typer.Option(help="auto, bf16 or fp32.")]
BatchTokensOption = Annotated[int, typer.Option(min=1, help="Padded tokens in one forward pass.")]
DeterministicOption = Annotated[
    bool, typer.Option("--deterministic", help="No bit of a score depends on any other row; slower.")
]
AggregateOption = Annotated[
    str, typer.Option(help="What makes one score of those of the steps: min, last, product or mean.")
]
OutputOption = Annotated[
    str,
    typer.Option(
        "-o", "--output", metavar="OUT", help="Continued if begun; - is stdout; Parquet where it ends so, else JSONL."
    ),
]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help='Write bad rows with null scores and "error".')]


@dataclass(frozen=True)
class Options:
    """What score, rank and filter have in common beside checkpoint, input and output."""

    skip_bad: SkipBadOption = False
    precision: PrecisionOption = "auto"
    batch_tokens: BatchTokensOption = 4096
    deterministic: DeterministicOption = False
    aggregate: AggregateOption = "mean"


DEFAULTS = Options()


def taking_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command with a parameter ``options: Options`` take each field as an option of the command line."""
    common = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(Options)
    ]
    own = [one for one in signature(command).parameters.values() if one.name != "options"]

    @wraps(command)
    def called(**given: Any) -> None:
        options = Options(**{field.name: given.pop(field.name) for field in fields(Options)})
        command(**given, options=options)

    vars(called)["__signature__"] = Signature([*own, *common])
    called.__annotations__ = {one.name: one.annotation for one in [*own, *common]}
    return called


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("score")(score_command)
    app.command("rank")(rank_command)
    app.command("filter")(filter_command)


@taking_options
def score_command(
    checkpoint: CheckpointArgument,
    input_: Annotated[
        str, typer.Argument(metavar="IN", help="JSONL or Parquet of messages or prompt and response; - is stdin.")
    ],
    output: OutputOption,
    options: Options = DEFAULTS,
) -> None:
    """Write each row of IN with the reward of its response, in input order."""
    from rm_workflow.evaluation.row_verbs import SCORE

    _run(SCORE, checkpoint, input_, output, options)


@taking_options
def rank_command(
    checkpoint: CheckpointArgument,
    input_: Annotated[
        str, typer.Argument(metavar="IN", help="JSONL or Parquet of prompt and responses (a list); - is stdin.")
    ],
    output: OutputOption,
    options: Options = DEFAULTS,
) -> None:
    """Write each row of IN with the rewards of its responses and the index of the best, the first of equal ones."""
    from rm_workflow.evaluation.row_verbs import RANK

    _run(RANK, checkpoint, input_, output, options)


@taking_options
def filter_command(
    checkpoint: CheckpointArgument,
    input_: Annotated[
        str, typer.Argument(metavar="IN", help="JSONL or Parquet of prompt, chosen and rejected; - is stdin.")
    ],
    output: OutputOption,
    min_margin: Annotated[
        float | None, typer.Option(help="Leave out pairs whose chosen reply is not this much better; default: none.")
    ] = None,
    options: Options = DEFAULTS,
) -> None:
    """Write the pairs of IN with the rewards of both sides and their difference, chosen minus rejected."""
    from rm_workflow.evaluation.row_verbs import filter_verb

    _run(filter_verb(min_margin), checkpoint, input_, output, options)


def check_precision(precision: str) -> None:
    """Refuse a precision that there is not."""
    if precision not in ("auto", "bf16", "fp32"):
        raise typer.BadParameter(f"{precision!r} is none of auto, bf16, fp32", param_hint="--precision")


def load_scorer(checkpoint: str, precision: str, batch_tokens: int, deterministic: bool) -> "Scorer":
    """Return the scorer of a checkpoint as the command line names it; a guessed token recipe is told."""
    from rm_workflow.evaluation.scorer import Scorer
    from rm_workflow.models.reward_model import resolve_device, resolve_precision

    named = find_checkpoint(checkpoint)
    device = resolve_device(load_settings().device)
    resolved = resolve_precision(precision, device)
    scorer = Scorer.load(named.folder, device, resolved, batch_tokens, "alone" if deterministic else None, named.hub_id)
    if scorer.recipe_origin == "guessed":
        warn(f"{checkpoint} has no token recipe; it is guessed from its chat template")
    return scorer


def check_aggregator(aggregate: str) -> None:
    """Refuse a way to make one score of those of steps that there is not."""
    from rm_workflow.evaluation.steps import AGGREGATORS

    if aggregate not in AGGREGATORS:
        raise UserError(f"--aggregate {aggregate} is unknown; {nearest(aggregate, AGGREGATORS)}")


def _run(verb: "Verb", checkpoint: str, input_: str, output: str, options: Options) -> None:
    from rm_workflow.evaluation.progress import progress_bar
    from rm_workflow.evaluation.row_files import begun_output, forget_begun, opened_output, opened_rows
    from rm_workflow.evaluation.score_file import Continued, Tally, as_lines, resume, score_lines

    check_precision(options.precision)
    check_aggregator(options.aggregate)
    _check_files(input_, output)
    find_checkpoint(checkpoint)
    tally, name = Tally(), "stdin" if input_ == STREAM else input_
    with opened_rows(input_) as (rows, total):
        lines = as_lines(rows, verb)
        begun = begun_output(output)
        try:
            continued, lines = resume(begun, lines, name, verb) if begun else (Continued([], 0, []), lines)
        except UserError:
            forget_begun(output)
            raise
        tally.continued = continued.num_passed
        first = next(lines, None)
        if first is None and not tally.continued:
            raise UserError(f"{name}: there is no row to read; give at least one")
        scorer = load_scorer(checkpoint, options.precision, options.batch_tokens, options.deterministic)
        _check_continued(scorer, continued, verb, output, options.aggregate)
        left = chain([first], lines) if first else lines
        with opened_output(output) as out, progress_bar("scoring") as progress:
            score_lines(scorer, left, out, name, options.skip_bad, tally, progress, total, options.aggregate, verb)
    _tell(tally, verb)


def _check_continued(scorer: "Scorer", continued: "Continued", verb: "Verb", output: str, aggregate: str) -> None:
    """Warn of scores of another checkpoint, and refuse an output that was begun with a higher bound."""
    from rm_workflow.evaluation.score_file import differs_from, kept_among_left_out

    gap = differs_from(scorer, continued, aggregate)
    if gap is not None:
        warn(f"scores in {output} differ from this checkpoint's by up to {gap:.3g}")
    left_out = kept_among_left_out(scorer, continued, verb, aggregate) if verb.drops else None
    if left_out:
        raise UserError(
            f"{output} leaves out {left_out.place}, which is above --min-margin, so it was begun with another one; "
            "name another output"
        )


def _tell(tally: "Tally", verb: "Verb") -> None:
    left_out = f"{tally.dropped} left out, " if verb.drops else ""
    typer.echo(
        f"{tally.scored} rows scored, {left_out}{tally.continued} were there already, {tally.bad} bad, "
        f"{tally.truncated} prompts truncated from the left; {tally.speed}",
        err=True,
    )
    if tally.replaced:
        warn(f"{tally.replaced} rows had a score or error of their own, which is replaced")


def _check_files(input_: str, output: str) -> None:
    if input_ != STREAM and not Path(input_).is_file():
        raise UserError(f"{input_}: there is no such file; name a JSONL or Parquet file, or - for stdin")
    if output != STREAM and Path(output).is_dir():
        raise UserError(f"{output} is a folder; name a file to write or - for stdout")
    if output != STREAM and not Path(output).absolute().parent.is_dir():
        raise UserError(f"{output}: its folder does not exist; create it or name another output")
    if STREAM not in (input_, output) and Path(output).exists() and Path(input_).samefile(output):
        raise UserError(f"{output} is the input itself; name another output")
