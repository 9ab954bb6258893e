"""The Python source in a block of code, however a model fences it."""

from __future__ import annotations

import re

_OPEN = re.compile(r"(?:^|(?<=[\s:]))(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)[^\n`]*(?:\n|(?=`)|\Z)", re.MULTILINE)
_INLINE = re.compile(r"\A\s*(`{3,})(?!\w*[ \t]*\r?\n)(?:(?i:python3?|py)[ \t]+)?(?P<source>[^\n]*?)\1\s*\Z")
_LANGUAGES = frozenset({"", "python", "python3", "python2", "py", "py3", "ipython", "ipython3", "pycon", "python-repl", "code"})
# A fence in a string of the code ends nothing.
_PARTS = r"(?P<quotes>\"{{3}}|'{{3}})(?:[^\\]|\\.)*?(?P=quotes)|\#[^\n]*|(?P<close>^[ \t]*{fence}[ \t]*\r?$)"


_ONE_FENCE = re.compile(r"\A\s*```(?i:python3?|py)?[ \t]*\r?\n.*?```\s*\Z", re.DOTALL)


def is_fenced(inside: str) -> bool:
    """Whether it is one ```python fence and nothing else, as the protocol explains it."""
    return _ONE_FENCE.match(inside) is not None


def python_of(inside: str) -> str | None:
    """The source: what stands in the fences of `inside`, one after another, or all of it without a fence.

    None if a fence names another language than Python, or if there is nothing in it.
    """
    if inline := _INLINE.match(inside):
        return inline["source"].strip() or None
    sources: list[str] = []
    position = 0
    fenced = False
    while opening := _OPEN.search(inside, position):
        fenced = True
        if opening["language"].strip("{}.").lower() not in _LANGUAGES:
            return None
        begin, fence = opening.end(), opening["fence"]
        parts = re.compile(_PARTS.format(fence=re.escape(fence)), re.MULTILINE | re.DOTALL)
        close = next((match for match in parts.finditer(inside, begin) if match["close"] is not None), None)
        if close is not None:
            sources.append(inside[begin : close.start()])
            position = close.end()
            continue
        last = inside.rfind(fence, begin)
        sources.append(inside[begin : last if last >= 0 else len(inside)])
        break
    if not fenced:
        return _source(inside).strip("\n") if inside.strip() else None
    return "\n".join(map(_source, sources))


def _source(text: str) -> str:
    return text.replace("\r\n", "\n").rstrip()
