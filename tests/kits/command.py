"""The ``entente`` command within the test's own process.

A script sees the exit code and what was printed; it sees the same here, through the same entry point and over the same
TLS. Only the start of a Python for each command is left out, which takes longer than most commands do. That a process
of its own behaves so too is what ``tests/e2e/test_cli.py`` starts a few for.
"""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from gateway.cli import main


def entente(*words: str) -> "subprocess.CompletedProcess[str]":
    """Runs one command to its end, and returns what a shell would have of it. Not from two threads at once."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", ["entente", *words]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(["entente", *words], code, out.getvalue(), err.getvalue())
