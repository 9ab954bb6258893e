"""Which directory a user means by `policy=`."""

from __future__ import annotations

from pathlib import Path

from envs.types import UsageError

STARTER_POLICY = Path(__file__).parent / "starter"


def find_policy(policy: str) -> str:
    """The absolute directory of a policy in the Hugging Face layout. Raises UsageError where there is no model in it."""
    path = STARTER_POLICY if policy == "starter" else Path(policy)
    if not (path / "config.json").is_file():
        raise UsageError(f"policy={policy}: there is no model in {path}; write policy=starter or a directory with a config.json")
    return str(path.absolute())
