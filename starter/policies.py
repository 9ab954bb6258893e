"""Finds the directory of the policy that the setting `policy=` names."""

from __future__ import annotations

from pathlib import Path

from envs.errors import UsageError

STARTERS = {"starter": Path(__file__).parent / "microworld", "starter_mixture": Path(__file__).parent / "mixture"}
"""The policies that the project ships, by the name that a user writes."""


def find_policy(policy: str) -> str:
    """The absolute directory of a policy in the Hugging Face layout. Raises UsageError if there is no model in it."""
    path = STARTERS.get(policy) or Path(policy)
    if not (path / "config.json").is_file():
        raise UsageError(
            f"policy={policy}: there is no model in {path}; write policy={' or '.join(STARTERS)}, or a directory with a config.json"
        )
    return str(path.absolute())
