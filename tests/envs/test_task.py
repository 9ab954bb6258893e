"""What a user may write for the parts of a task, and the one line that answers what cannot be meant."""

import random

import pytest
from PIL import Image

from envs import Task, ToolEnv
from envs.errors import UsageError
from envs.protocols import Call

PICTURE = Image.new("RGB", (8, 8))


def task(**parts):
    return Task(**{"task_id": "t", "question": "Q", "answer": "42", "abilities": ("reasoning",), "source": "test"} | parts)


@pytest.mark.parametrize(
    ("part", "given", "meant"),
    [
        ("abilities", "perception", ("perception",)),
        ("needed_tools", "code", ("code",)),
        ("tools", "code", ("code",)),
        ("images", PICTURE, (PICTURE,)),
        ("views", [PICTURE], (PICTURE,)),
        ("images", None, ()),
    ],
    ids=["abilities", "needed tools", "tools", "image", "views", "no image"],
)
def test_one_text_or_image_stands_for_a_tuple(part, given, meant):
    assert getattr(task(**{part: given}), part) == meant


@pytest.mark.parametrize(
    ("part", "given", "remedy"),
    [
        ("answer", 42, "task t: answer=42: write a text, as in answer='42'"),
        ("question", None, "task t: question=None: write a text"),
        ("needed_tools", "", "task t: needed_tools='': write needed_tools=() if there is none"),
        ("images", "cat.png", "task t: images='cat.png': write PIL images, as PIL.Image.open gives them"),
        ("images", [b"png"], "task t: images=b'png': write PIL images"),
    ],
)
def test_what_is_no_text_or_image_is_refused_when_the_task_is_made(part, given, remedy):
    with pytest.raises(UsageError) as refused:
        task(**{part: given})
    assert str(refused.value).startswith(remedy)


def test_an_expert_that_yields_no_turn_is_answered_with_what_to_yield():
    def expert(_):
        yield Call("count", {})

    env = ToolEnv([task(expert=expert)], tools=[])
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"^task t: its expert yields Call\(.*: yield Calls\(\(Call\(…\),\)\), Answer\(…\) or "):
        next(env.expert(random.Random(0)))
    env.close()
