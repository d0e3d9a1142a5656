"""The ``rmw`` command: registers the groups of verbs and turns errors into one sentence."""

import errno
import importlib
import logging
import os
import sys
import traceback
import warnings
from functools import cache
from importlib import metadata
from typing import Annotated, Any, NoReturn

import typer

from rm_workflow.errors import UserError, shortened
from rm_workflow.redaction import redact
from rm_workflow.settings import wait_without_spinning

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
INTERRUPTED = 130
# typer has no public name for it: the base of every complaint about how a command was written.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def _version() -> str:
    try:
        return metadata.version("rm_workflow")
    except metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rmw {_version()}")
        raise typer.Exit


app = typer.Typer(
    name="rmw",
    help="Reward models you can trust: raw preference rows to evaluated checkpoints.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


# Each module of verbs with the verbs that it registers, in the order in which ``--help`` lists them.
VERBS = {
    "init": ("init", "schema"),
    "catalog": ("recipes", "plan"),
    "sources": ("sources",),
    "run": ("run", "counts"),
    "overlap": ("overlap",),
    "audit": ("audit",),
    "inspect": ("show", "lineage", "trace"),
    "score": ("score", "rank", "filter"),
    "aggregate": ("aggregate",),
    "evaluate": ("evaluate",),
    "compare": ("compare",),
    "leaderboard": ("leaderboard",),
    "sweep": ("runs", "promote", "rollback"),
    "questions": ("funnel", "history", "diff", "shared", "worst"),
    "export": ("export",),
    "importing": ("import",),
    "card": ("card",),
    "report": ("report",),
    "push": ("push",),
    "doctor": ("doctor",),
    "verify": ("verify",),
    "gc": ("gc",),
    "ui": ("ui",),
    "serve": ("serve",),
}


@cache
def _register(verb: str | None = None) -> None:
    """Add the verbs of one verb's module, or all where it is none; a process does so once.

    To load all takes a second more than to load one; a verb that is added again makes each later call slower.
    """
    from rm_workflow.cli import examples

    modules = [module for module, verbs in VERBS.items() if verb in verbs] or VERBS
    for module in modules:
        importlib.import_module(f"rm_workflow.cli.{module}").register(app)
    examples.add_to(app)


def console() -> None:
    """Run the command line as a program of its own.

    Ends without Python's own shutdown: once torch is loaded, DuckDB's bindings print pages about leaks there.
    """
    code = 0
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(verb: str | None = None) -> None:
    """Run the command line; exit 0 on success, 2 for wrong usage, 1 for all else.

    Args:
        verb: the only one whose module need be loaded, where the process runs no other; None loads all.
    """
    wait_without_spinning()
    # transformers draws a bar for each file it loads; our own lines say what is being done. Its GGUF reader heeds no
    # other switch than this one, which tqdm reads when it is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # Dagster warns of a part of its Pipes that is called by Dagster itself.
    warnings.filterwarnings("ignore", message=".*currently in preview.*")
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("rm_workflow").setLevel(logging.INFO)
    try:
        _register(verb)
        # typer turns Ctrl-C and typer.Exit into a code that it returns.
        code = app(prog_name=app.info.name, standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code)
    except UsageError as error:
        _fail(_wrong_usage(error), code=2)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        mend = "free space there" if error.errno in DISK_FULL else "check the path and its permissions"
        _fail(f"{error.filename or 'the disk'}: {error.strerror}; {mend}")
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", code=INTERRUPTED)
    except Exception as error:
        if os.environ.get("RMW_DEBUG"):
            print(redact(traceback.format_exc()), file=sys.stderr)
        _fail(f"{type(error).__name__}: {error}; this is a fault of rmw itself, RMW_DEBUG=1 shows where")


def _wrong_usage(error: Any) -> str:
    """Return what typer says of a wrong option, argument or verb as one sentence."""
    command = error.ctx.command_path if error.ctx else app.info.name
    # A group that is called without a verb has printed its help and says nothing.
    problem = error.format_message().rstrip(".") or "no verb is named"
    return f"{command}: {problem}; see {command} --help"


def _fail(sentence: str, code: int = 1) -> NoReturn:
    from rm_workflow.cli.output import for_terminal

    print("error: " + for_terminal(shortened(redact(" ".join(sentence.split())))), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    console()
