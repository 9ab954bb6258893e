"""What a user may write as `policy=`."""

from pathlib import Path

import pytest

from envs.errors import UsageError
from starter.policies import STARTERS, find_policy


def test_a_missing_policy_is_named():
    with pytest.raises(UsageError, match="policy=nowhere"):
        find_policy("nowhere")


@pytest.mark.parametrize("name", STARTERS)
def test_a_shipped_policy_is_found_by_its_name(name):
    assert Path(find_policy(name)).is_absolute()


def test_the_shipped_weights_are_small():
    sizes = [path.stat().st_size for directory in STARTERS.values() for path in directory.rglob("*") if path.is_file()]
    assert sum(sizes) < 8 << 20
