"""The commands that look at runs without touching them."""

from __future__ import annotations

from collections.abc import Sequence

from console import say


def view(overrides: Sequence[str]) -> int:
    """Serve a page that shows runs, until Ctrl-C."""
    from configs import compose
    from envs.errors import UsageError
    from viewer.settings import ViewConfig

    paths = [argument for argument in overrides if "=" not in argument]
    config = compose("view", ViewConfig, [argument for argument in overrides if "=" in argument])
    if not paths:
        raise UsageError("view takes run directories, or a directory of runs: write `view runs/demo` or `view runs`")
    from viewer.serve import serve

    serve(paths, config, say)
    return 0
