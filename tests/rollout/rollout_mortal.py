"""Engines that are killed amid an update. Workers import them by name."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rollout_fakes import ScriptedEngine


class Mortal(ScriptedEngine):
    """A scripted engine that is killed by the kernel amid its next update if it finds the file `deadly` in the policy's directory.
    The log-probabilities that it gives are told from the weights that it serves: see `told`."""

    KIND = "rollout_mortal:Mortal"

    def __init__(self, config, version=0):
        super().__init__(config, version)
        self._deadly, self._told = Path(config.engine.policy, "deadly"), 0.0

    async def publish(self, state, version):
        self._told = told(Deadly(state, self._deadly) if self._deadly.exists() else state)
        await super().publish(state, version)

    async def generate(self, token_ids, images, **options):
        generation = await super().generate(token_ids, images, **options)
        return replace(generation, logprobs=[self._told] * len(generation.token_ids))


def told(state):
    """A negative number that depends on every weight."""
    return -abs(sum(float(tensor.double().square().sum()) for tensor in state.values()))


class Deadly(Mapping):
    """Kills the process that has read half of it."""

    def __init__(self, state, fuse):
        self._state, self._fuse, self._read = state, fuse, 0

    def __getitem__(self, name):
        self._read += 1
        if 2 * self._read > len(self._state):
            self._fuse.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self._state[name]

    def __iter__(self):
        return iter(self._state)

    def __len__(self):
        return len(self._state)
