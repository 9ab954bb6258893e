"""The chat format of the starter policy."""

import pytest

from rollout.tokens.chat_format import ChatFormat
from starter.policies import find_policy


@pytest.fixture(scope="session")
def chat():
    return ChatFormat.from_directory(find_policy("starter"))
