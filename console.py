"""What a person sees while a run goes on: a progress bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET_SECONDS = 10.0

# A log has no width; tables need one.
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 132)
Advance = Callable[[int, str], None]


@contextmanager
def progress(title: str, total: int) -> Generator[Advance]:
    """Yields `advance(done, text)`. Off a terminal, prints the first and the last step and one every `QUIET_SECONDS`."""
    if console.is_terminal:
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        ]
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, text="")
            yield lambda done, text: bar.update(task, completed=done, text=text)
        return
    last = [0.0]

    def advance(done: int, text: str) -> None:
        now = time.monotonic()
        if done in (1, total) or now - last[0] >= QUIET_SECONDS:
            last[0] = now
            console.print(f"{title} {done}/{total}  {text}", highlight=False)

    yield advance
