"""The command line within the test's own process: who starts nothing need not wait for a Python of its own."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from unittest import mock

from detector_worker.cli import main

__all__ = ["call_here"]


def call_here(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run ``detector-worker`` with these arguments, as the program does: errors are lines, and there is an exit code.

    Only for what ends before it starts anything: threads, signals and logging would be this process's.
    """
    command, out, errors = ["detector-worker", *map(str, arguments)], io.StringIO(), io.StringIO()
    code: object = 0
    with (
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.object(sys, "argv", command),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int)
    return subprocess.CompletedProcess(command, code, out.getvalue(), errors.getvalue())
