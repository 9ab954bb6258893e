"""An engine of vLLM that is killed amid an update. Workers import it by name, and nobody else: vLLM takes seconds to import."""

from __future__ import annotations

from pathlib import Path

from rollout_mortal import Deadly

from rollout.engines.vllm import VllmPolicy


class Mortal(VllmPolicy):
    """Is killed by the kernel amid its next update if it finds the file `deadly` in the policy's directory."""

    async def publish(self, state, version):
        fuse = Path(self._config.policy, "deadly")
        await super().publish(Deadly(state, fuse) if fuse.exists() else state, version)
