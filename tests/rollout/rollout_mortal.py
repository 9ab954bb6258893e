"""An engine of vLLM that is killed amid an update. Workers import it by name, and nobody else: vLLM takes seconds to import."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from rollout.engines.vllm import VllmPolicy


class Mortal(VllmPolicy):
    """Is killed by the kernel amid its next update if it finds the file `fuse` in the policy's directory."""

    async def publish(self, state, version):
        fuse = Path(self._config.policy, "fuse")
        await super().publish(Deadly(state, fuse) if fuse.exists() else state, version)


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
