"""Answers as a reader sees them: without Markdown, LaTeX's wrappers, quotes, tags, and words such as "the answer is"."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_INVISIBLE = dict.fromkeys([0xAD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF, *range(0x202A, 0x202F)])
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SAME_CHARACTERS = str.maketrans(
    dict.fromkeys("−‐‑‒–—―－﹣", "-") | dict.fromkeys("“”„‟″", '"') | dict.fromkeys("‘’‚‛′´", "'") | {"٫": ".", "٬": ","}
)
_COMMANDS = {"text", "textbf", "textit", "textrm", "textsf", "texttt", "textnormal", "textup", "emph", "underline", "mbox"}
_COMMANDS |= {"boxed", "fbox", "framebox", "mathrm", "mathbf", "mathit", "mathsf", "mathtt", "bm", "boldsymbol", "operatorname"}
_COMMAND = re.compile(rf"\\({'|'.join(sorted(_COMMANDS))})\*?\s*\{{")
_SPACES = re.compile(
    r"(?<!\\)\\(?:[,;:! ]|quad\b|qquad\b|enspace\b|thinspace\b|displaystyle\b|textstyle\b|left(?![a-z])|right(?![a-z]))"
)
_MATHS = re.compile(
    r"(?s)\A\$\s+([^$]+?)\s+\$\.?\Z|\$\$(.+?)\$\$|(?<![\\$\w])\$(?![\s$])([^$\n]*[^$\s\\])\$(?![\d$])"
    r"|\\\((.+?)\\\)|\\\[(.+?)\\\]"
)
_EMPHASES = [
    re.compile(r"(?s)\A```[\w+-]*\n(.*?)\n?```\Z"),
    re.compile(r"\*\*\*(?=\S)([^*\n]+)\*\*\*"),
    re.compile(r"\*\*(?=\S)([^*\n]+)\*\*"),
    re.compile(r"(?<!\w)__(?=\S)([^_\n]+)__(?!\w)"),
    re.compile(r"(?<![\w*)\]}])\*(?=\S)([^*\n]*[^*\s])\*(?![\w*(\[{])"),
    re.compile(r"(?<![\w_)\]}])_(?=\S)([^_\n]*[^_\s])_(?![\w_(\[{])"),
    re.compile(r"`([^`\n]+)`"),
]
_ENDS_OF_LINES = re.compile(r"(?m)^\s{0,3}(?:#{1,6}\s+(?=\S)|>\s+(?=[^\W\d]|[\"(\[]))")  # "> 5" is a bound
_BULLET = re.compile(r"\A\s*(?:[*•‣▪●◦]|[-–](?=\s+[^\s\d.]))\s+(?=\S)")  # "- 5" is a negative number
_TAGS = re.compile(r"(?is)\A\s*<(answer|final_answer|b|strong|i|em|code|p|span)>(.*)</\1>\s*\Z")
_JSON = re.compile(r"""(?is)\A\s*\{\s*["'](?:final[ _])?answer["']\s*:\s*(["']?)([^"'{}\[\]]*|\[[^\[\]{}]*\])\1\s*\}\s*\Z""")
_SUFFIX = re.compile(r"(?i)[.\s]*\bI hope (?:it|this) is correct\.?\s*\Z|(?<=\S)(?:です|でした|입니다)\s*[.。]?\s*\Z")
_PAIRS = {'"': '"', "'": "'", "«": "»", "‹": "›", "「": "」", "『": "』", "《": "》", "【": "】"}
_SUBJECT = r"(?:(?:final|correct|right|best|best possible|most likely)\s+)?(?:answer|option|choice|result|solution)s?"
_PREFIX = re.compile(
    rf"""(?ix)\A\s*(?:
    (?:(?:so|thus|therefore|hence)\b,?\s*)?(?:the|my|our)\s+{_SUBJECT}(?:\s+to\s+(?:the|this|your)\s+question)?
        \s*(?:(?:is|are|was|were|would\s+be|should\s+be|must\s+be)\b\s*:?|[:=])
    | (?:final\s+|correct\s+|short\s+)?(?:answer|result|solution)\s*(?:[:=]|is\b\s*:?)
    | (?:final\s+|the\s+)?(?:answer|result|solution)[ \t]*\n
    | (?:so|thus|therefore|hence)\b[,:]?
    | (?:it|that|this)(?:\s+(?:is|was)|'s)\b(?!\s+(?:not|n't))
    | (?:(?:所以|因此|故|综上)(?:所述)?,?\s*)?(?:最终|最後の|正确|正確)?(?:的)?(?:答案|答え|回答|正解)
        \s*(?:应该是|应为|应是|选|選|應該是|是|为|為|は|:)\s*:?
    | (?:정답은|답은|정답|답)\s*:?\s+
    | (?:die\s+|la\s+|a\s+)?(?:richtige\s+|korrekte\s+|bonne\s+)?(?:antwort|réponse|respuesta|risposta|resposta)
        (?:\s+(?:correct[ae]|corretta|correta|finale?))?\s*(?:[:=]|(?:ist|est|es|è|é)\b\s*:?)
    | (?:правильный\s+)?(?:ответ)\s*[:=-]
    | (?:الجواب|الإجابة|الاجابة)(?:\s+(?:الصحيحة|الصحيح|النهائية|النهائي))?(?:\s+(?:هو|هي))?\s*:?\s
    | (?:सही\s+)?उत्तर(?:\s+है)?\s*:?\s
    )\s*(?=\S)"""
)


def plain(text: str) -> str:
    """The text in compatible characters: ASCII digits, quotes and dashes, superscripts as `^2`, fractions as `1/2`, no controls."""
    text = text.translate(_INVISIBLE)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda found: "^" + found[0].translate(_SUPERSCRIPTS), text)
    # Half of "3½" would be 31/2.
    text = re.sub("[¼-¾⅐-⅞↉]", lambda found: f" {unicodedata.normalize('NFKC', found[0])}", text).replace("⁄", "/")
    text = text.replace("º", "°").replace("…", "...").replace("⁄", "/")
    text = unicodedata.normalize("NFKC", text.translate(_SAME_CHARACTERS)).translate(_SAME_CHARACTERS).replace("⁄", "/")
    return "".join(str(unicodedata.decimal(character)) if character.isdecimal() else character for character in text)


@lru_cache(maxsize=1024)  # each option and each accepted answer asks anew
def unwrapped(text: str) -> str:
    """The answer itself, in compatible characters: no Markdown, no wrapper of LaTeX's, no words that only say that it is one.

    Nothing that carries meaning is taken away: hedges, negations and second answers remain.
    """
    text = plain(text).strip()
    for _ in range(8):  # each round takes off one layer
        before = text
        for pattern in _EMPHASES:
            text = pattern.sub(r"\1", text)
        text = _MATHS.sub(lambda found: next(group for group in found.groups() if group is not None), text)
        text = _without_commands(text)
        text = _BULLET.sub("", _ENDS_OF_LINES.sub("", text), count=1) if "\n" not in text else _ENDS_OF_LINES.sub("", text)
        text = _SUFFIX.sub("", _PREFIX.sub("", text, count=1))
        if tagged := _TAGS.match(text):
            text = tagged[2]
        if recorded := _JSON.match(text):
            text = recorded[2]
        text = _unquoted(text.strip())
        if text == before:
            break
    return text


def without_latex(text: str) -> str:
    """Unwrapped text without the rest of a plain answer's LaTeX: percent, degrees, currency, fractions, spaces."""
    if "\\" not in text and "^{" not in text:
        return text
    text = re.sub(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" (\1)/(\2)", text)
    text = re.sub(r"\\[dtc]?frac\s*(\d)\s*(\d)", r" \1/\2", text)
    text = re.sub(r"\((-?[\d.]+)\)/\((-?[\d.]+)\)", r"\1/\2", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?:s\b)?", "°", text)
    text = re.sub(r"\\(?:times|cdot)(?![a-z])", "×", re.sub(r"\\(?:approx|sim|simeq)(?![a-z])", "≈", text))
    text = re.sub(r"\\([%$&#_{}])", r"\1", text).replace("\\Omega", "Ω").replace("\\euro", "€").replace("\\pounds", "£")
    return re.sub(r"\^\s*\{\s*([^{}]*?)\s*\}", r"^\1", _SPACES.sub(" ", text).replace("{,}", ",")).strip()


def _without_commands(text: str) -> str:
    """The text with the arguments of `\\boxed{…}`, `\\text{…}` and the like in their place; braces are balanced."""
    while match := _COMMAND.search(text):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            end += 1
        inside = text[match.end() : end - 1] if not depth else text[match.end() :]
        before, after = text[: match.start()], text[end:]
        # Two boxes side by side are two answers, not the digits of one.
        text = before + " " * _touch(before, inside) + inside + " " * _touch(inside, after) + after
    return text


def _touch(left: str, right: str) -> bool:
    return left[-1:].isalnum() and (right[:1].isalnum() or right[:1] == "\\")


def _unquoted(text: str) -> str:
    """The text without quotes around the whole of it."""
    while len(text) > 1 and _PAIRS.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
