"""What a person sees while a command runs: its lines, and a progress bar on a terminal or a line now and then elsewhere."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from shutil import which
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from envs.runtime.progress import Advance, Snapshot

QUIET_SECONDS = 10.0
CHECKOUTS = ".venv/bin/toolwise"

WIDTH = 132
"""Columns of what is written where there is no terminal: a log has no width; tables need one."""
console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else WIDTH)


def say(text: str) -> None:
    """Print a line as it is: brackets in it are no markup."""
    console.print(text, markup=False)


def program() -> str:
    """`toolwise` as it can be called from the present directory."""
    if os.path.exists(CHECKOUTS):
        return CHECKOUTS
    return "toolwise" if which("toolwise") else shlex.quote(os.path.join(os.path.dirname(sys.executable), "toolwise"))


def done(wrote: str, command: str, other: str = "") -> None:
    """The last lines of a command: what it wrote, the command that comes next, and perhaps another that may."""
    say(f"wrote {wrote}")
    say(f"next: {program()} {command}")
    if other:
        say(f"or: {program()} {other}")


def can_draw() -> bool:
    """Whether there is a terminal on which lines can be drawn over."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def live(snapshot: Snapshot, *, stays: bool = True) -> Generator[None]:
    """An `envs.runtime.progress.View` of a training run, drawn over once a second. What is printed meanwhile stands above it.

    `stays` leaves the last of it there.
    """
    from viewer.status.page import WIDTH, Look, joined, page

    def drawn() -> Text:
        # A character in the last column would make some terminals begin a line.
        look = Look(min(WIDTH, console.width - 1), console.options.ascii_only)
        try:
            return joined(page(snapshot(), time.time(), look))
        except Exception as error:  # a view is no reason to end a run
            return Text(f"the view failed: {type(error).__name__}: {error}")

    with Live(get_renderable=drawn, console=console, refresh_per_second=1, transient=not stays):
        yield


@contextmanager
def progress(title: str, total: int) -> Generator[Advance]:
    """An `envs.runtime.progress.Progress`. Off a terminal, prints the first and the last step and one every `QUIET_SECONDS`."""
    if can_draw():
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
            say(f"{title} {done}/{total}  {text}")

    yield advance
