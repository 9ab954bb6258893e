"""The command line as a user calls it, in a separate process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLWISE = [sys.executable, str(ROOT / "toolwise.py")]


def run(*arguments, **environment):
    return subprocess.run(
        [*TOOLWISE, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280, env=os.environ | environment
    )


def assert_one_line(result, *words):
    """The command refused its input, in one line that has all the words."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert all(word in lines[0] for word in words), lines[0]
