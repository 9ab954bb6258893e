"""The Python source in a block of code, however a model fences it."""

from __future__ import annotations

import re

_OPEN = re.compile(r"(?:^|(?<=[\s:]))(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)[^\n`]*(?:\n|(?=`)|\Z)", re.MULTILINE)
_LANGUAGE = re.compile(r"(?:python3?|py)[ \t]+", re.IGNORECASE)
_SHORTEST = 3
_LANGUAGES = frozenset({"", "python", "python3", "python2", "py", "py3", "ipython", "ipython3", "pycon", "python-repl", "code"})
_STRINGS = ('"""', "'''")


_ONE_FENCE = re.compile(r"\A\s*```(?i:python3?|py)?[ \t]*\r?\n.*?```\s*\Z", re.DOTALL)


def is_fenced(inside: str) -> bool:
    """Whether it is one ```python fence and nothing else, as the protocol explains it."""
    return _ONE_FENCE.match(inside) is not None


def python_of(inside: str) -> str | None:
    """The source: what stands in the fences of `inside`, one after another, or all of it without a fence.

    None if a fence names another language than Python, or if there is nothing in it.
    """
    inline = unfenced(inside.strip(), "`")
    if inline is not None and "\n" not in inline:
        language = _LANGUAGE.match(inline)
        return inline[language.end() if language else 0 :].strip() or None
    sources: list[str] = []
    position = 0
    fenced = False
    while opening := _OPEN.search(inside, position):
        fenced = True
        if opening["language"].strip("{}.").lower() not in _LANGUAGES:
            return None
        begin, fence = opening.end(), opening["fence"]
        close = _close(inside, begin, fence)
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


def unfenced(text: str, marks: str = "`~") -> str | None:
    """What stands between a fence of one of the marks at the very beginning and one as long at the very end; None without them."""
    mark = text[:1]
    if not mark or mark not in marks:
        return None
    most = len(text) // 2
    length = min(most, len(text) - len(text.lstrip(mark)), len(text) - len(text.rstrip(mark)))
    return text[length : len(text) - length] if length >= _SHORTEST else None


def _close(inside: str, begin: int, fence: str) -> re.Match[str] | None:
    """The first closing fence that stands in no string of the code."""
    strings = list(_STRINGS)
    while True:
        # One that is never closed is no string, nor is any after it: to try them would take time with the square of the length.
        kinds = "|".join(rf"{quotes}(?:[^\\]|\\.)*?{quotes}" for quotes in strings) or "(?!)"
        opens = "|".join(strings) or "(?!)"
        parts = re.compile(
            rf"{kinds}|(?P<open>{opens})|\#[^\n]*+|(?P<close>^[ \t]*+{re.escape(fence)}[ \t]*+\r?$)", re.MULTILINE | re.DOTALL
        )
        found = next((match for match in parts.finditer(inside, begin) if match["open"] or match["close"] is not None), None)
        if found is None or found["close"] is not None:
            return found
        strings.remove(found["open"])
        begin = found.start() + 1


def _source(text: str) -> str:
    return text.replace("\r\n", "\n").rstrip()
