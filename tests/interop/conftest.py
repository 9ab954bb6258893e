"""The starter's chat format, one with Qwen3-VL's template, and one hostile run, for all tests of export and import."""

import shutil
from pathlib import Path

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


@pytest.fixture(scope="session")
def templated(tmp_path_factory):
    """The starter's tokenizer with a published chat template: a directory by the template's name."""

    def made(name):
        directory = tmp_path_factory.mktemp(name)
        for path in Path(find_policy("starter")).glob("*.json"):
            shutil.copyfile(path, directory / path.name)
        template = Path(__file__).parents[1] / f"data/chat_templates/{name}.jinja"
        shutil.copyfile(template, directory / "chat_template.jinja")
        return directory

    return {name: made(name) for name in ("qwen3_vl", "qwen2_5_vl")}
