"""The starter's chat format, and one hostile run, for all tests of export and import."""

import pytest
from interop_runs import hostile

from rollout.tokens.chat_format import ChatFormat
from starter.policies import find_policy


@pytest.fixture(scope="session")
def chat():
    return ChatFormat.from_directory(find_policy("starter"))


@pytest.fixture(scope="session")
def hostile_run(chat, tmp_path_factory):
    return hostile(chat, tmp_path_factory.mktemp("hostile"))
