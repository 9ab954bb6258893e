"""What a plain number may count: "5 apples", "5 red cars", but not "5 of 7", "5 or so", "5 tens"."""

from __future__ import annotations

import re

from envs.scoring.quantities.words import CHINESE_NUMERALS, NUMBER_WORDS, OTHER_SCALES, SCALE_WORDS

_COUNTED = re.compile(r"[^\W\d_]+(?:\^?[23])?(?:/[^\W\d_]+(?:\^?[23])?)?|°[CF]?", re.IGNORECASE)
_LETTERS_COUNTED = frozenset("gshdlLWVm°")
# What follows a number and takes it back, bounds it, or adds another.
_TAKING_BACK = (
    "or and nor not no but is are was were be than to from until till through between minus plus times over under above below more "
    "less fewer most least maybe perhaps possibly probably likely unlikely unless except without instead if either neither both "
    "squared cubed factorial power root wrong incorrect false right correct unknown unsure too almost nearly ish off short up down "
    "percent per cent pct modulo mod divided multiplied respectively vs versus on by with th negative positive ago pi bc bce oder "
    "und ou et o y e nicht kein не нет non ni ne pas sino pero aber mais"
)
NOT_COUNTED = frozenset(_TAKING_BACK.split())
"""Words after a number that take it back, bound it, or add another."""
_OTHER_WORDS_NOT = re.compile(
    "では?な|じゃな|ません|より|なし|まで|でしょう|かも|か\\Z|아니|아닙|아닌|이하|이내|보다|부터|까지|[吗嗎吧呢]"
)
_OTHER_SCRIPTS_NOT = frozenset("십백여쯤상미초或和与與不非到至多几幾余半未否以成折")


def is_counted(name: str, glued: bool) -> bool:
    """Whether a text may name what a number counts, and nothing that changes the number."""
    words = name.replace("-", " ").split()
    if len(words) > 5 or len(name) > 60 or _OTHER_WORDS_NOT.search(name):
        return False
    for position, word in enumerate(words):
        lower = word.casefold().strip(".'")
        if _COUNTED.fullmatch(word.strip(".,'")) is None or lower in NOT_COUNTED or lower in NUMBER_WORDS or lower in OTHER_SCALES:
            return False
        if lower in SCALE_WORDS or any(character in CHINESE_NUMERALS or character in _OTHER_SCRIPTS_NOT for character in word):
            return False
        if len(lower) == 1 and lower < "\u2e80" and (position or word not in _LETTERS_COUNTED or (word == "m" and glued)):
            return False
    # "5 of them" is 5, "5 of" and "of 5" are not.
    return words[-1].casefold() not in ("of", "the", "a", "an") and words[0].casefold() not in ("the", "a", "an")
