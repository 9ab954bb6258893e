"""Imports of large libraries without Python's search for garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def importing() -> Generator[None]:
    """For imports: nobody looks for garbage meanwhile, and if something was imported, nor later among all that there is then.

    While PyTorch, transformers, vLLM and verl are imported they make a million objects, and the garbage collector goes through
    them again and again: a fifth of the time. What is garbage by then, some megabytes, is never freed.
    """
    if not gc.isenabled():
        yield  # inside another one, or as the user wants it
        return
    known = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        gc.enable()
