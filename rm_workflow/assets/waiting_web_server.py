"""The web server as a process that first loads its code and then waits for its arguments, see ``web_ui``.

``python -m rm_workflow.assets.waiting_web_server NUMBER``, the number of the socket on which it is told.
"""

import json
import os
import signal
import socket
import sys

MOST_FILES = 4
SHUTDOWN_PIPE = "--shutdown-pipe"


def told(listening: socket.socket) -> list[str] | None:
    """Return the arguments of ``dagster-webserver``, or None where the process that would tell them is gone.

    Variables that the process that tells has set are set here, too.
    """
    _, files, _, _ = socket.recv_fds(listening, 1, MOST_FILES)
    with listening.makefile("rb") as rest:
        text = rest.read()
    if not text:
        return None
    message = json.loads(text)
    os.environ.update(message["environment"])
    # An open file has a number of its own in each process.
    here = dict(zip(map(str, message["file_numbers"]), map(str, files), strict=True))
    arguments: list[str] = message["arguments"]
    if SHUTDOWN_PIPE in arguments:
        place = arguments.index(SHUTDOWN_PIPE) + 1
        arguments[place] = here[arguments[place]]
    return arguments


def main() -> None:
    """Load, wait, and serve as told.

    Ends without Python's own shutdown, where DuckDB's bindings print pages about leaks.
    """
    # Who presses Ctrl-C meanwhile sees no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rm_workflow.assets import web_server

    with socket.socket(fileno=int(sys.argv[1])) as listening:
        arguments = told(listening)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 0
    try:
        if arguments is not None:
            web_server.serve(arguments)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
