"""Imports of large libraries without Python's search for garbage."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def permanent() -> Generator[None]:
    """What is made inside stays as long as the process: nobody looks for garbage meanwhile, nor later among what there is then.

    While PyTorch, transformers, vLLM and verl are imported they make a million objects, and the garbage collector goes through
    them again and again: a fifth of the time. What is garbage by then, some megabytes, is never freed.
    """
    if not gc.isenabled():
        yield  # inside another one, or as the user wants it
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
