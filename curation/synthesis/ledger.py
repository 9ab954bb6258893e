"""What teachers cost, against a budget, and how fast they may be asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from envs.errors import UsageError
from envs.runtime.deadlines import waiting


class BudgetSpent(UsageError):
    """No further request fits into the budget."""


@dataclass
class Spending:
    """What one teacher took: requests that were answered, tokens as the API counts them, and their cost.

    `uncounted` replies came without a count: their tokens were counted with the student's tokenizer, images left out.
    """

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    uncounted: int = 0

    def add(self, tokens_in: int, tokens_out: int, cost: float, counted: bool) -> None:
        """Count one reply."""
        self.requests += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.cost += cost
        self.uncounted += not counted


@dataclass
class Ledger:
    """All spending, by teacher. A request is admitted only if it fits beside what was spent and what those under way may take."""

    budget: float | None = None
    token_budget: int | None = None
    spending: dict[str, Spending] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._reserved_cost, self._reserved_tokens, self._under_way = 0.0, 0, 0
        self._changed = asyncio.Condition()

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return self.budget is not None or self.token_budget is not None

    @property
    def cost(self) -> float:
        """What was spent."""
        return sum(one.cost for one in self.spending.values())

    @property
    def tokens(self) -> int:
        """The tokens that were taken, prompts and replies."""
        return sum(one.tokens_in + one.tokens_out for one in self.spending.values())

    def of(self, teacher: str) -> Spending:
        """The spending of one teacher."""
        return self.spending.setdefault(teacher, Spending())

    @asynccontextmanager
    async def admitted(self, cost: float, tokens: int) -> AsyncGenerator[None]:
        """For a request that may take so much. It waits for others under way if they may leave room.

        Raises BudgetSpent if there is none.
        """
        async with self._changed:
            while not self._fits(cost, tokens):
                if not self._under_way:
                    raise BudgetSpent(self._said())
                with waiting():
                    await self._changed.wait()
            self._reserve(cost, tokens, 1)
        try:
            yield
        finally:
            self._reserve(-cost, -tokens, -1)
            async with self._changed:
                self._changed.notify_all()

    def _reserve(self, cost: float, tokens: int, requests: int) -> None:
        self._reserved_cost += cost
        self._reserved_tokens += tokens
        self._under_way += requests

    def _fits(self, cost: float, tokens: int) -> bool:
        return (self.budget is None or self.cost + self._reserved_cost + cost <= self.budget + 1e-12) and (
            self.token_budget is None or self.tokens + self._reserved_tokens + tokens <= self.token_budget
        )

    def _said(self) -> str:
        parts = [f"{self.cost:.4g} of budget={self.budget:g}"] if self.budget is not None else []
        parts += [f"{self.tokens:,} tokens of token_budget={self.token_budget:,}"] if self.token_budget is not None else []
        return f"the next request may exceed the budget: {' and '.join(parts)} are spent"


class Pace:
    """At most so many units a minute, evenly: each call waits for those before it."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 60.0 / per_minute if per_minute else 0.0
        self._free_at = 0.0

    async def wait(self) -> None:
        """Wait until what was charged so far has passed."""
        while (ahead := self._free_at - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(ahead)

    def charge(self, units: float) -> None:
        """Count units: those that come next wait for them."""
        if self._seconds:
            self._free_at = max(self._free_at, asyncio.get_running_loop().time()) + units * self._seconds
