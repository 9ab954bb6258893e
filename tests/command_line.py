"""The command line as a user calls it: in a separate process, or, for the many inputs that it refuses, in this one."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import toolwise

ROOT = Path(__file__).parents[1]
TOOLWISE = [sys.executable, str(ROOT / "toolwise.py")]


def run(*arguments, **environment):
    return subprocess.run(
        [*TOOLWISE, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280, env=os.environ | environment
    )


def run_here(*arguments):
    """What `run` returns, by the same `main`, without the seconds in which a new process imports what this one has."""
    out, errors = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["toolwise", *arguments]), redirect_stdout(out), redirect_stderr(errors):
        status = toolwise.main()
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), errors.getvalue())


def assert_one_line(result, *words):
    """The command refused its input, in one line that has all the words."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert all(word in lines[0] for word in words), lines[0]
