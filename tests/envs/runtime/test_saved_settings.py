"""Settings that a command has written and that something has damaged since are one line."""

import pytest

from envs.errors import UsageError
from envs.runtime.saved_settings import saved_settings


@pytest.mark.parametrize("content", [b"", b"seed: \xff", b"\0" * 64, b"a: [", b"- a"], ids=repr)
def test_damaged_settings_are_one_line(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"^.*config\.yaml cannot be read \(.+\): put back .*another directory$"):
        saved_settings(path)
