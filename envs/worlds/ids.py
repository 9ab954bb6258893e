"""The environment ids that `import envs` registers with Gymnasium. What makes the environments is imported when one is made."""

from __future__ import annotations

from typing import Any

import gymnasium

# From id to the abilities of its tasks.
MICROWORLDS: dict[str, tuple[str, ...]] = {
    "toolwise/Perception-v0": ("perception",),
    "toolwise/Reasoning-v0": ("reasoning",),
    "toolwise/Search-v0": ("search",),
    "toolwise/Integration-v0": ("integration",),
    "toolwise/Microworld-v0": ("perception", "reasoning"),
    "toolwise/Mixture-v0": ("perception", "reasoning", "search", "integration"),
    "toolwise/Errands-v0": ("errands",),
}
ATLAS = "toolwise/Atlas-v0"
BASICS = {"toolwise/Basics-v0": "microworld", "toolwise/MixtureBasics-v0": "mixture"}
DATASET = "toolwise/Dataset-v0"


def register() -> None:
    """Register every id once."""
    entries: dict[str, tuple[str, dict[str, Any]]] = {ATLAS: ("make_atlas", {}), DATASET: ("make_dataset", {})}
    entries |= {env_id: ("make_basics", {"world": world}) for env_id, world in BASICS.items()}
    entries |= {env_id: ("make_microworld", {"abilities": abilities}) for env_id, abilities in MICROWORLDS.items()}
    for env_id, (maker, kwargs) in entries.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=f"envs.worlds.registry:{maker}", kwargs=kwargs)
