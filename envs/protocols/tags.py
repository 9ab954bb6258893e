"""Finds the actions between tags in a turn, from left to right, so that a tag inside another action is plain text."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Thoughts, in the spellings of the models in use: Qwen and DeepSeek, Claude, OpenThinker, Kimi, Magistral, Seed.
_NAMES = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reasoning)"
_OPEN = rf"<{_NAMES}(?:\s[^<>]*)?/?>|<\|begin_of_thought\|>|◁think▷|(?-i:\[THINK\])"
_CLOSE = rf"</{_NAMES}\s*>|<\|end_of_thought\|>|◁/think▷|(?-i:\[/THINK\])"
THOUGHTS_BEGIN, THOUGHTS_END = re.compile(_OPEN, re.IGNORECASE), re.compile(_CLOSE, re.IGNORECASE)
_TAG = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})|<(?P<tag>code|tool_call|answer)>", re.IGNORECASE)
_AGAIN = {tag: re.compile(f"<{tag}>", re.IGNORECASE) for tag in ("code", "tool_call", "answer")}
_ENDS = {tag: re.compile(f"</{tag}>", re.IGNORECASE) for tag in _AGAIN}
_BEGINS = {
    "code": re.compile(r"\s*(?:```|~~~)"),
    "tool_call": re.compile(r"\s*(?:```|~~~|[{\[]|<function=)"),
    "answer": re.compile(r"(?!)"),
}
# JSON strings are skipped: a closing tag inside one is part of it. A quote that is never closed opens no string, nor does any after
# it, since all of them are escaped: to try them would take time with the square of the length. `++` and `*+` never go back.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?P<closed>")?|(?P<end></tool_call>)', re.DOTALL | re.IGNORECASE)
_PYTHON_STRING = re.compile(
    r"""(\"{3}|'{3})(?:[^\\]|\\.)*?\1 | "(?:[^"\\\n]++|\\.)*+" | '(?:[^'\\\n]++|\\.)*+' | \#[^\n]*+\n | (?P<open>["'\#])""",
    re.DOTALL | re.VERBOSE,
)
_FIRST_FENCE = re.compile(r"[^`~<]*(?<=[\s:>])(?P<fence>`{3,}|~{3,})[^\n`]*\n?")
_FENCE_LINE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_MAX_ENDS = 64  # how many tags are tried that may be only named: each costs a look at the whole turn


@dataclass(frozen=True, slots=True)
class Block:
    """One action between tags, outside the thoughts: its tag, its content, and its start and end in the turn."""

    tag: str
    inside: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Scan:
    """The parts of a turn: its actions, and the text outside the thoughts.

    `visible_start` is the index at which a lone `</think>` ends the thoughts, else 0. `thoughts` are the spans of later thoughts.
    `open_tag` is a tag that was never closed, at the index `open_start`; the text after it is hidden. `examples` says that all
    blocks stand in a Markdown fence or between backticks.
    """

    blocks: tuple[Block, ...]
    visible: str
    visible_start: int = 0
    thoughts: tuple[tuple[int, int], ...] = ()
    open_tag: str | None = None
    open_start: int = 0
    examples: bool = False

    def between(self, text: str, end: int) -> str:
        """The text outside the thoughts up to the index `end`."""
        return _without(text[:end], self.visible_start, self.thoughts)


def scan(text: str, tags: frozenset[str]) -> Scan:
    """Find the blocks of `tags` outside the thoughts, from left to right: a tag inside a block is part of its text.

    Thoughts are in `<think>…</think>`, or before a lone `</think>` if the chat template opens them. Thoughts that were cut off hide
    everything after them. A tag that is only named, in quotes or before the tag itself, opens no block; blocks in a Markdown fence
    or between backticks are examples if there is one outside.
    """
    blocks: list[Block] = []
    hidden: list[tuple[int, int]] = []
    position = visible_start = 0
    thought = False
    inner = 0  # openings inside thoughts, each of which may have an end of its own
    named = 0  # tags that were only named
    open_tag, open_start = None, 0
    while match := _TAG.search(text, position):
        start, position = match.span()
        if match["close"]:
            if not thought or inner:  # all text before is thought: the chat template opened them, or they stood inside others
                blocks, hidden, thought, inner, visible_start = [], [], True, max(0, inner - 1), position
        elif match["open"]:
            if match["open"].endswith("/>"):
                end = position
            elif closing := THOUGHTS_END.search(text, position):
                end = closing.end()
                # The chat template and the model may both have opened them, one behind the other.
                inner += bool(THOUGHTS_BEGIN.search(text[position : closing.start()].lstrip(), 1))
                inner += not thought and not blocks and bool(text[:start].strip())
            else:
                open_tag, open_start = "think", start
                break
            thought, position = True, end
            hidden.append((start, end))
        elif (tag := match["tag"].lower()) in tags and not _is_named(text, start, position):
            end = _end(text, position, tag)
            limit = len(text) if end is None else end
            begins = _BEGINS[tag].match(text, position) is not None
            if not thought and (closing := _end_of_thoughts(text, position, limit, tag if begins else "")):
                position = closing  # thoughts that the chat template opened, in which the tag was only mentioned
                continue
            if not begins and end is not None and named < _MAX_ENDS and _AGAIN[tag].search(text, position, limit):
                named += 1
                continue
            if end is None:
                open_tag, open_start = tag, start
                break
            blocks.append(Block(tag, text[position : end - len(tag) - 3], start, end))
            position = end
    shown = text[:open_start] if open_tag == "think" else text
    visible = _without(shown, visible_start, hidden)
    meant = _meant(text, visible_start, blocks)
    examples = bool(blocks) and not meant
    return Scan(tuple(meant or blocks), visible, visible_start, tuple(hidden), open_tag, open_start, examples)


def _end_of_thoughts(text: str, position: int, limit: int, tag: str) -> int | None:
    """Where a `</think>` stands that is in no string of the action `tag`, if the text is one."""
    for _, match in zip(range(_MAX_ENDS), THOUGHTS_END.finditer(text, position, limit), strict=False):
        if not _ends_in_string(text[position : match.start()], tag):
            return match.start()
    return None


def _is_named(text: str, start: int, end: int) -> bool:
    """Whether the tag stands between two equal quotes: it is spoken of."""
    return start > 0 and text[start - 1] in "`'\"" and text[end : end + 1] == text[start - 1]


def _meant(text: str, position: int, blocks: list[Block]) -> list[Block]:
    """The blocks outside Markdown's fences and backticks."""
    outside, fenced = [], False
    for block in blocks:
        fenced ^= len(_FENCE_LINE.findall(text[position : block.start])) % 2 == 1
        position = block.end
        if not fenced and not (text[block.start - 1 : block.start] == "`" and text[block.end : block.end + 1] in ("`", "")):
            outside.append(block)
    return outside


def _end(text: str, position: int, tag: str) -> int | None:
    """The end of the action whose content begins at `position`; None if it is never closed."""
    if tag == "code":
        return _end_of_code(text, position)
    if tag == "tool_call" and not _is_xml(text[position : position + 64]):
        strings = _STRING.finditer(text, position)
        last = next((match for match in strings if not match["closed"]), None)  # the end, or a quote that is never closed
        if last is None or last["end"]:
            return None if last is None else last.end()
        position = last.start()
    match = _ENDS[tag].search(text, position)
    return None if match is None else match.end()


def _end_of_code(text: str, position: int) -> int | None:
    """Behind its fence; without one, the first closing tag that stands in no string or comment."""
    fence = _FIRST_FENCE.match(text, position)
    first = None
    for _, match in zip(range(_MAX_ENDS), _ENDS["code"].finditer(text, position), strict=False):
        if not _ends_in_string(text[fence.end() if fence else position : match.start()], "code"):
            first = match.end()
            break
    if fence is None:
        return first
    fences = re.compile(rf"{fence['fence']}(?:[ \t]*+\r?\n[^`~<]*+)?+\s*+</code>", re.IGNORECASE).finditer(text, fence.end())
    tried = [match for _, match in zip(range(_MAX_ENDS), fences, strict=False)]
    outside = (match for match in tried if not _ends_in_string(text[fence.end() : match.start()], "code"))
    closed = next(outside, tried[0] if tried else None)
    if closed is None:
        return first
    # A fence that was forgotten is not closed by that of the next block.
    return first if first is not None and _AGAIN["code"].search(text, first, closed.end()) else closed.end()


def is_whole(text: str, tags: frozenset[str]) -> bool:
    """Whether a turn that generation stopped at is over: not if the text that stopped it stands in thoughts, in an example, or in a
    string of code or of a call's JSON. A closing tag amid an action that is not its own ends the turn, which is then malformed."""
    found = scan(text, tags)
    if found.examples:
        return False
    if found.open_tag is not None:
        return found.open_tag != "think" and not _ends_in_string(text[found.open_start :], found.open_tag)
    last = found.blocks[-1] if found.blocks else None
    return last is None or last.tag != "tool_call" or bool(text[last.end :].strip()) or not _ends_in_string(last.inside, last.tag)


def _ends_in_string(inside: str, tag: str) -> bool:
    """Whether the inside of an action ends amid a string, or a comment of code."""
    if tag == "code":
        return any(match["open"] for match in _PYTHON_STRING.finditer(inside))
    return tag == "tool_call" and not _is_xml(inside) and any(not (m["closed"] or m["end"]) for m in _STRING.finditer(inside))


def _is_xml(inside: str) -> bool:
    """Whether it is a call in Qwen3-Coder's form, whose values stand in no quotes."""
    return inside.lstrip().startswith("<function=")


def _without(text: str, start: int, hidden: list[tuple[int, int]] | tuple[tuple[int, int], ...]) -> str:
    parts = []
    for begin, end in hidden:
        if begin >= len(text):
            break
        parts.append(text[start:begin])
        start = end
    return "".join([*parts, text[start:]])
