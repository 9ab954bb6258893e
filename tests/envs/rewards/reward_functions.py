"""Rewards as a user's module has them."""

from envs import group_part


def brief(outcome):
    """1 if the answer has at most three characters."""
    return float(outcome.answer is not None and len(outcome.answer) <= 3)


async def eager(outcome):
    """1 for each tool call."""
    return len(outcome.tool_calls)


def rule(outcome):
    """A whole rule."""
    return 0.25, {"brief": brief(outcome), "half": 0.5}


class Bonus:
    """A part that is an object."""

    def __init__(self, size=2.0):
        self.size = size

    def __call__(self, outcome):
        return self.size


class Needy:
    """It cannot be made without an argument."""

    def __init__(self, size):
        self.size = size

    def __call__(self, outcome):
        return self.size


class Silent:
    """It cannot be called."""


number = 5


@group_part
def rank(members):
    """0, 1, 2, …"""
    return range(len(members))


@group_part
def short(members):
    """Too few numbers."""
    return [0.0]


@group_part
def broken(members):
    """Fails."""
    return [1 / 0 for _ in members]
