"""Whether two expressions are equal: parsed by math-verify's LaTeX grammar, which reads all or nothing, and compared part by part.

math-verify's own comparison takes differences below 1e-15 for none, so values that sympy can compute are compared here, relative to
their size; relations and what has no value are left to it.
"""

from __future__ import annotations

import logging
import math
import re
from fractions import Fraction
from typing import Any

from envs.scoring.lists import matched
from envs.scoring.mathematics.latex import Expression

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no timeout: its process has
_DIGITS, _MOST_DIGITS = 30, 400
_EXACT, _ROUNDED = 1e-20, 1.0001e-6  # 0.333333 is 1/3
_ROUGHLY = 0.01
_APPROXIMATELY = re.compile(r"\\(?:approx|simeq)(?![a-zA-Z])")
_LARGEST_POWER, _LARGEST_FACTORIAL = 10_000, 2_000
_POINTS = (Fraction(7, 11), Fraction(-13, 9), Fraction(29, 12), Fraction(-5, 17), Fraction(41, 37))


class TooLarge(ValueError):
    """A power or a factorial whose value would fill the memory."""


def equal(answer: Expression, truth: Expression) -> bool:
    """Whether the expressions are equal. Decimals are compared to six digits. Raises any error for what cannot be read."""
    tolerance = _ROUNDED if answer.decimal or truth.decimal else _EXACT
    exact, *roundings = _APPROXIMATELY.split(answer.latex)
    given, expected = _parsed(exact, truth.latex), _parsed(truth.latex, answer.latex)
    if roundings and not all(_same(_parsed(each, exact), given, _ROUGHLY) for each in roundings):
        return False  # "\\sqrt{2} \\approx 1.41" says the value again
    pairs = [(given, expected)]
    if answer.percent != truth.percent:
        from sympy import Rational

        # As for NUMBER: a share is at most 1, so a truth above is a number of per cent.
        share = Rational(1, 100)
        pairs = [(given * share, expected)] if answer.percent else [(given, expected), (given, expected * share)]
        if answer.percent and truth.number is not None and abs(truth.number) > 1:
            pairs.append((given, expected))
    return any(_same(one, other, tolerance) for one, other in pairs)


def _parsed(latex: str, other: str) -> Any:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from math_verify.grader import should_treat_as_complex

    parsed = latex2sympy(
        latex,
        is_real=not (should_treat_as_complex(latex) or should_treat_as_complex(other)),
        convert_degrees=False,
        normalization_config=None,
        conversion_config=ConversionConfig(lowercase_symbols=False),
    )
    _check(parsed)
    return parsed


def _check(expression: Any) -> None:
    """Refuse what is too large to be computed, before anything computes it. Raises TooLarge."""
    from sympy import Pow, factorial

    for part in expression if isinstance(expression, list) else [expression]:
        for node in _nodes(part):
            if isinstance(node, factorial) and node.args[0].is_number and _float(node.args[0]) > _LARGEST_FACTORIAL:
                raise TooLarge(str(node.func))
            if isinstance(node, Pow) and node.exp.is_number and abs(_float(node.exp)) > _LARGEST_POWER:
                raise TooLarge(str(node.func))


def _nodes(expression: Any):
    """The parts of an expression, inner ones first: what is checked may be computed by what contains it."""
    for part in expression.flat() if hasattr(expression, "flat") else getattr(expression, "args", ()):
        yield from _nodes(part)
    yield expression


def _float(expression: Any) -> float:
    try:
        return float(expression.evalf(5))
    except (TypeError, ValueError, OverflowError):
        return math.inf if expression.is_real else 0.0


def _same(given: Any, expected: Any, tolerance: float) -> bool:
    from sympy import Basic, Eq, Expr, Interval, MatrixBase, Symbol, Tuple, Union
    from sympy import FiniteSet as SympySet
    from sympy.core.relational import Relational
    from sympy.logic.boolalg import Boolean

    if isinstance(given, Eq) and isinstance(given.lhs, Symbol) and not isinstance(expected, Eq):
        given = given.rhs
    elif isinstance(expected, Eq) and isinstance(expected.lhs, Symbol) and not isinstance(given, Eq):
        expected = expected.rhs
    if isinstance(given, Eq) and isinstance(expected, Eq) and isinstance(given.lhs, Symbol) and given.lhs == expected.lhs:
        return _same(given.rhs, expected.rhs, tolerance)
    if isinstance(given, Eq) != isinstance(expected, Eq):
        left = given.lhs if isinstance(given, Eq) else expected.lhs
        if left.free_symbols and not _is_name(left):
            return False  # x^2 = 5 is not 5
    if isinstance(given, Relational | Boolean) and isinstance(expected, Interval | Union):
        given = given.as_set()
    elif isinstance(expected, Relational | Boolean) and isinstance(given, Interval | Union):
        expected = expected.as_set()
    if isinstance(given, MatrixBase) and isinstance(expected, MatrixBase):
        pairs = zip(given.flat(), expected.flat(), strict=False)
        return given.shape == expected.shape and all(_same(one, other, tolerance) for one, other in pairs)
    if isinstance(given, SympySet) and isinstance(expected, SympySet):
        return matched([[_same(one, other, tolerance) for other in expected.args] for one in given.args], ordered=False)
    if isinstance(given, Tuple) and isinstance(expected, Tuple):
        pairs = zip(given.args, expected.args, strict=False)
        return len(given.args) == len(expected.args) and all(_same(one, other, tolerance) for one, other in pairs)
    if isinstance(given, Interval) and isinstance(expected, Interval):
        ends = _same(given.start, expected.start, tolerance) and _same(given.end, expected.end, tolerance)
        return ends and (given.left_open, given.right_open) == (expected.left_open, expected.right_open)
    structures = SympySet, Tuple, Interval, MatrixBase
    if type(given) is not type(expected) and (isinstance(given, structures) or isinstance(expected, structures)):
        return False
    if isinstance(given, Expr) and isinstance(expected, Expr) and (decided := _values(given, expected, tolerance)) is not None:
        return decided
    if not (isinstance(given, Basic) and isinstance(expected, Basic)):
        return False
    from math_verify import verify

    return bool(verify(expected, given, timeout_seconds=None))


def _is_name(side: Any) -> bool:
    """Whether the side of an equation names what the other side is: x, AB, f(x)."""
    from sympy import Mul, Symbol
    from sympy.core.function import AppliedUndef

    return isinstance(side, AppliedUndef) or all(isinstance(part, Symbol) for part in Mul.make_args(side))


def _values(given: Any, expected: Any, tolerance: float) -> bool | None:
    """Whether the values agree, at several points if there are variables; None if they cannot be computed."""
    names = sorted({symbol.name for symbol in given.free_symbols | expected.free_symbols})
    if not names:
        one, other = given.doit(), expected.doit()
        if one.is_Rational and other.is_Rational and not (one.is_Float or other.is_Float) and tolerance == _EXACT:
            return bool(one == other)  # however small they are
    agreed = 0
    for shift in range(len(_POINTS) if names else 1):
        point = {name: _POINTS[(index + shift) % len(_POINTS)] + index // len(_POINTS) for index, name in enumerate(names)}
        values = [_value(expression, point) for expression in (given, expected)]
        if None in values:
            continue
        size = max(abs(values[0]), abs(values[1]))
        if size > 0 and abs(values[0] - values[1]) > tolerance * size:
            return False
        agreed += 1
    return True if agreed >= (3 if names else 1) else None


def _value(expression: Any, point: dict[str, Fraction]) -> Any:
    """The complex value at a point; None if it has none, or not a finite one."""
    import mpmath
    from sympy import Rational

    substitutions = {symbol: Rational(point[symbol.name]) for symbol in expression.free_symbols}
    parts = expression.subs(substitutions).evalf(_DIGITS, maxn=_MOST_DIGITS).as_real_imag()
    if not all(part.is_Float or part.is_Rational for part in parts):
        return None
    with mpmath.workdps(_DIGITS + 10):
        value = mpmath.mpc(*(part._to_mpmath(mpmath.mp.prec) for part in parts))
        # sympy tries so many digits to tell a sum from 0.
        return value if abs(value) > mpmath.mpf(10) ** -(_MOST_DIGITS // 2) else mpmath.mpc(0)
