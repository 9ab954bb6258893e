"""The alarm for when a policy gives up its tools, or is about to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np


@dataclass(slots=True)
class _Watch:
    """What the alarm remembers about one ability."""

    first_uses: list[float] = field(default_factory=list)
    last_uses: list[float] = field(default_factory=list)
    first_needed: list[float] = field(default_factory=list)
    last_needed: list[float] = field(default_factory=list)
    advantage: float | None = None
    low_steps: int = 0
    use: float | None = None
    tries: float = 0.0
    solved: float = 0.0
    right: float = 1.0
    unpaid_steps: int = 0
    offered: bool = True


def offers_tools(metrics: Mapping[str, float]) -> bool:
    """Whether there was a tool to call in a step, from its line of `metrics.jsonl`: that has a frequency for each tool."""
    return any(re.fullmatch(r"tools/.+/frequency", name) for name in metrics)


class CollapseAlarm:
    """Rings when a policy gives up tools that it needs, and not when it dips and comes back, or drops tools that it does not need.

    For all episodes, and for each ability, the share of episodes with a call (use) is compared with its mean over the first
    `warmup` steps. The alarm rings for one of four reasons:

    - *given up*: use has been below `fraction` of its start for `patience` steps although tools were worth it (the running mean of
      the tool advantage is positive). Healthy runs were seen to fall to 9–27 % of their start for about five steps and recover.
      Unlearning a tool that does not pay is what training is for, and is silent.
    - *unpaid*: use is falling (from the third step on its running mean is below `falling` of its start) while calls do not pay
      even on the tasks that no episode without a call solved: of those calls fewer than `least_gain` lead to a right answer, in
      the running mean, for `unpaid_patience` steps. It rings before use is lost: RL is unlearning calls that it would need.
    - *needed*, for all episodes together: from the second step on, use is below `falling` of its start, and use on the tasks that
      are known to need a tool falls so fast that one more such step leaves less than `needed_fraction` of its start, while of the
      calls on tasks that nobody solved without one fewer than `least_gain_needed` help. A healthy policy drops at first the calls
      that it does not need, and of those that it needs the larger part helps; with a small learning rate it has time to find
      that out.
    - *never called*: tools are offered and fewer than `fewest` of the first episodes called one, while more than a tenth of them
      were wrong. RL cannot strengthen what is not sampled.
    """

    def __init__(
        self,
        fraction: float = 0.3,
        patience: int = 10,
        warmup: int = 5,
        *,
        falling: float = 0.85,
        least_gain: float = 0.15,
        unpaid_patience: int = 2,
        needed_fraction: float = 0.5,
        least_gain_needed: float = 0.45,
        fewest: float = 0.02,
    ) -> None:
        self._fraction, self._patience, self._warmup = fraction, patience, warmup
        self._falling, self._least_gain, self._unpaid_patience, self._fewest = falling, least_gain, unpaid_patience, fewest
        self._needed_fraction, self._least_gain_needed = needed_fraction, least_gain_needed
        self._watches: dict[str, _Watch] = {}

    def replay(self, metrics: Mapping[str, float]) -> bool:
        """Take in a step from its line of `metrics.jsonl`; whether the alarm rings for anything now.

        Raises KeyError if the line has no `tools/use`, as those of earlier versions.
        """
        offered = offers_tools(metrics)
        ability = re.compile(r"ability/(.+)/tools/use")
        names = [match[1] for key in metrics if (match := ability.fullmatch(key))]
        for name in ("", *names):
            part = f"ability/{name}/" if name else ""
            tries = round(metrics.get(f"{part}tools/gain_episodes", 0))
            self.update(
                name,
                metrics[f"{part}tools/use"],
                metrics.get(f"{part}reward/tool_advantage"),
                tries=tries,
                solved=round(tries * metrics.get(f"{part}tools/gain", 0)),
                right=metrics.get(f"{part}reward/accuracy", 1.0),
                offered=offered,
                needed=metrics.get(f"{part}by_need/needed/tool_use"),
            )
        return self.ringing

    def update(
        self,
        name: str,
        use: float,
        advantage: float | None,
        *,
        tries: int = 0,
        solved: int = 0,
        right: float = 1.0,
        offered: bool = True,
        needed: float | None = None,
    ) -> bool:
        """Take in one step of the ability `name` ("" for all together); whether the alarm rings for it now.

        `use` is the share of episodes with a call, `advantage` the `reward/tool_advantage`, None if unknown. `tries` and `solved`
        are what `evaluation.tool_use.tool_gain` counts, `right` is the share of all episodes that were right, `offered` says
        whether there is a tool to call, and `needed` is the use on tasks that are known to need a tool, None if there are none.
        """
        watch = self._watches.setdefault(name, _Watch())
        if advantage is not None:
            watch.advantage = advantage if watch.advantage is None else 0.8 * watch.advantage + 0.2 * advantage
        watch.use = use if watch.use is None else 0.7 * watch.use + 0.3 * use
        watch.tries, watch.solved = 0.8 * watch.tries + tries, 0.8 * watch.solved + solved
        watch.offered = offered
        watch.last_uses = [*watch.last_uses[-1:], use]
        if needed is not None:
            watch.last_needed = [*watch.last_needed[-1:], needed]
            if len(watch.first_needed) < 2:
                watch.first_needed.append(needed)
        if len(watch.first_uses) < self._warmup:
            known = len(watch.first_uses)
            watch.right = (watch.right * known + right) / (known + 1)
            watch.first_uses.append(use)
            watch.unpaid_steps = watch.unpaid_steps + 1 if self._unpaid(watch) else 0
            return self._reason(name, watch) is not None
        low = use < self._fraction * self._start(watch)
        watch.low_steps = watch.low_steps + 1 if low else 0
        watch.unpaid_steps = watch.unpaid_steps + 1 if self._unpaid(watch) else 0
        return self._reason(name, watch) is not None

    @property
    def ringing(self) -> bool:
        """Whether the alarm rings for anything."""
        return self.reason is not None

    @property
    def reason(self) -> str | None:
        """Why the alarm rings, in one line; None if it does not."""
        reasons = (self._reason(name, watch) for name, watch in sorted(self._watches.items()))
        return next((reason for reason in reasons if reason is not None), None)

    @property
    def never_called(self) -> bool:
        """Whether the alarm rings because tools were not called from the first step on: no earlier policy called them."""
        watch = self._watches.get("")
        return watch is not None and self._never_called("", watch)

    @property
    def calm(self) -> bool:
        """Whether nothing is low or falling unpaid: a state of the policy that is worth going back to."""
        return not any(
            watch.low_steps or watch.unpaid_steps or (not name and self._losing_needed(watch))
            for name, watch in self._watches.items()
        )

    def _start(self, watch: _Watch) -> float:
        return float(np.mean(watch.first_uses))

    def _highest_start(self, watch: _Watch) -> float:
        """Use at the start, also of a fall that begins with the first step and pulls the mean of the first steps down with it."""
        return max(self._start(watch), float(np.mean(watch.first_uses[:2])))

    def _unpaid(self, watch: _Watch) -> bool:
        """Calls of about half a small step are evidence enough; fewer say nothing."""
        start = self._highest_start(watch)
        falling = len(watch.first_uses) > 2 and watch.use is not None and watch.use < self._falling * start
        return falling and watch.tries >= 16 and watch.solved < self._least_gain * watch.tries

    def _losing_needed(self, watch: _Watch) -> bool:
        """Whether use falls, and is about to be lost where tools are needed, while most calls there fail."""
        if len(watch.first_needed) < 2 or watch.tries < 16:
            return False
        before, now = watch.last_needed
        falling = watch.last_uses[-1] < self._falling * self._highest_start(watch)
        losing = now - max(before - now, 0.0) < self._needed_fraction * np.mean(watch.first_needed)
        return bool(falling and losing and watch.solved < self._least_gain_needed * watch.tries)

    def _never_called(self, name: str, watch: _Watch) -> bool:
        if name or watch.use is None or len(watch.first_uses) < self._warmup:
            return False
        return watch.offered and max(self._start(watch), watch.use) < self._fewest and watch.right < 0.9

    def _reason(self, name: str, watch: _Watch) -> str | None:
        if watch.use is None:
            return None
        start, of = self._start(watch), f" on {name}" if name else ""
        if self._never_called(name, watch):
            return f"tools are not called: {watch.use:.1%} of the episodes call one, and RL cannot strengthen what is not sampled"
        if watch.low_steps >= self._patience and watch.advantage is not None and watch.advantage > 0:
            return (
                f"tools were given up{of}: {watch.use:.0%} of the episodes call one, {start:.0%} did at first, although calls paid"
            )
        losing_needed = not name and self._losing_needed(watch)
        if watch.unpaid_steps >= self._unpaid_patience or losing_needed:
            fell = f"{watch.last_uses[-1]:.0%} of the episodes call one, {self._highest_start(watch):.0%} did at first"
            if losing_needed:
                needed = f"{watch.last_needed[-1]:.0%} of those that need one, {float(np.mean(watch.first_needed)):.0%} at first"
                fell = f"{fell} ({needed})"
            paid = watch.solved / watch.tries
            return (
                f"tools are being unlearned{of}: {fell}, and on tasks that are not solved without a tool "
                f"{paid:.0%} of the calls help"
            )
        return None

    def state(self) -> dict[str, Any]:
        """What `load_state` needs to go on, as plain JSON."""
        return {name: asdict(watch) for name, watch in self._watches.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`, also from one of an earlier version, which knows less."""
        known = {entry.name for entry in fields(_Watch)}
        self._watches = {
            name: _Watch(**{key: value for key, value in watch.items() if key in known}) for name, watch in state.items()
        }
