"""``dagster dev`` with the guarded web server in place of Dagster's: ``python -m rm_workflow.assets.web_ui dev ...``.

All else is Dagster's: code servers, daemon, who watches and ends them, arguments.
"""

import warnings
from collections.abc import Sequence
from typing import Any

from dagster._cli import dev, main
from dagster._utils.warnings import SupersessionWarning
from dagster_shared.ipc import open_ipc_subprocess

DAGSTERS_SERVER = "dagster_webserver"
GUARDED_SERVER = "rm_workflow.assets.web_server"


def start_guarded(command: Sequence[str], **options: Any) -> Any:
    """Start a process of ``dagster dev``; the web server is ours."""
    return open_ipc_subprocess([GUARDED_SERVER if part == DAGSTERS_SERVER else part for part in command], **options)


if __name__ == "__main__":
    # Dagster would have people call its other program, which starts no guarded server.
    warnings.filterwarnings("ignore", category=SupersessionWarning)
    dev.open_ipc_subprocess = start_guarded  # type: ignore[attr-defined, assignment]
    main()  # type: ignore[no-untyped-call]
