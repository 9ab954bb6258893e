"""A search of one's own is named by its import path."""

import pytest

from envs import resolve
from envs.errors import UsageError
from envs.search.backends import open_image_search, open_text_search
from envs.worlds.microworld import emblems, knowledge_base
from rollout.episode.environments import make


class Own:
    async def search(self, queries, top_k):
        return [[] for _ in queries]


OWN = Own()


def test_a_function_that_makes_it_an_object_and_a_class():
    assert open_text_search("envs.worlds.microworld:knowledge_base") is knowledge_base()
    assert open_image_search("envs.worlds.microworld:emblems") is emblems()
    assert open_text_search(f"{__name__}:OWN") is OWN
    assert isinstance(open_text_search({"backend": "own", "path": f"{__name__}:Own"}), Own)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("envs.worlds.microworld:knowlege_base", "did you mean knowledge_base"),
        ("no_such_module:search", "there is no module no_such_module"),
        ("envs.worlds.microworld:ABILITIES", "it has no `search`"),
    ],
)
def test_what_is_none_gets_one_line(path, answer):
    with pytest.raises(UsageError, match=answer):
        open_text_search(path)


def test_questions_of_a_file_may_have_the_built_in_world_s_searches(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "What is the price of Fendova?", "answer": "28"}\n')
    searches = {"text_search": "envs.worlds.microworld:knowledge_base", "image_search": "envs.worlds.microworld:emblems"}
    env = make(*resolve(str(tmp_path / "q.jsonl"), searches))
    assert env.unwrapped.tools == ("code", "text_search", "image_search")
    env.close()
