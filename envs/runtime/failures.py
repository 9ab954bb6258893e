"""One line for an error that code of the user's raised: what it is, and at which line of which file."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_OURS = str(Path(__file__).parents[2])
_FOREIGN = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")})
_PACKAGES = ("site-packages", "dist-packages")
_ROOMS = (
    *("sandbox", "envs", "rollout", "evaluation", "curation", "starter", "learner", "viewer", "interop", "benchmarks", "configs"),
    *("toolwise.py", "checks.py", "console.py", "reading.py", "usage.py"),
)
"""What of the checkout is the project's, not the user's: what stands beside it, such as examples/, may be copied and changed."""


def told(error: BaseException) -> str:
    """The error as one line, as in `IndexError: list index out of range (mine.py, line 14, in tasks)`.

    The place is the innermost one in code of the user's: neither of this project, nor of Python or of an installed package. If
    there is none, nothing is said of it.
    """
    words = " ".join(str(error).split())
    line = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if (frame := place(error)) is None:
        return line
    return f"{line} ({Path(frame.filename).name}, line {frame.lineno}, in {frame.name})"


def place(error: BaseException) -> traceback.FrameSummary | None:
    """That place; None if no code of the user's had a part in the error."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return frames[-1] if frames else None


def _is_users(file: str) -> bool:
    path = Path(file)
    if not path.is_absolute() or any(part in _PACKAGES for part in path.parts) or file.startswith(_FOREIGN):
        return False
    inside = path.is_relative_to(_OURS)
    return not inside or path.relative_to(_OURS).parts[0] not in _ROOMS
