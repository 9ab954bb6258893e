"""Answers are kept: a cache is shared and asked first, a recording replays without the network, and a replay never guesses."""

import shutil

import pytest
from PIL import Image

from envs.errors import SearchUnavailable, UsageError
from envs.runtime.disk_cache import DiskCache
from envs.search import backends
from envs.search.backends import open_text_search
from envs.search.recording import Recording, RememberingImageSearch, RememberingTextSearch, Replay
from envs.search.text.index import TextIndex
from envs.search.types import Document, Match, Passage


class Counting:
    """A search that counts what it is asked."""

    def __init__(self):
        self.asked = []

    async def search(self, queries, top_k):
        self.asked += queries if isinstance(queries, list) else [queries]
        if isinstance(queries, Image.Image):
            return [Match("red", "gallery", Image.new("RGB", (4, 4), "red")), Match("bare", "")]
        return [[Passage(query, "source", f"about {query}")] * top_k for query in queries]


@pytest.fixture(params=["cache", "record"])
def memory(request, tmp_path):
    return lambda: DiskCache(tmp_path / "cache") if request.param == "cache" else Recording(tmp_path / "answers.jsonl")


async def test_only_what_is_new_is_asked_for(memory):
    backend = Counting()
    first = RememberingTextSearch(backend, memory(), "b")
    await first.search(["a", "b"], 2)
    second = RememberingTextSearch(backend, memory(), "b")  # another process, the same files
    found = await second.search(["b", "c", "a"], 2)
    assert [passages[0].title for passages in found] == ["b", "c", "a"]
    assert backend.asked == ["a", "b", "c"]


async def test_other_backends_and_other_counts_are_other_questions(memory):
    backend = Counting()
    for name, top_k in (("b", 2), ("c", 2), ("b", 3)):
        await RememberingTextSearch(backend, memory(), name).search(["a"], top_k)
    assert backend.asked == ["a", "a", "a"]


@pytest.fixture
def opened(tmp_path):
    """Opens a search that keeps its answers in one place, as another process would."""

    def again(kept, **settings):
        backends._opened.cache_clear()
        return open_text_search(settings | {kept: str(tmp_path / "kept")})

    return again


def retrieval(word):
    return lambda request: {"result": [[{"document": {"contents": f'"{word}"\nText'}}] for _ in request["json"]["queries"]]}


@pytest.mark.parametrize("kept", ["cache", "record"])
async def test_a_server_or_an_index_does_not_answer_for_another(tmp_path, kept, opened, search_server):
    index = tmp_path / "index"
    for word in ("old", "new"):
        shutil.rmtree(index, ignore_errors=True)
        TextIndex.build([Document(word, "capital")], index)
        server = search_server(retrieval(word))
        for settings in ({"backend": "index", "path": str(index)}, {"backend": "server", "url": server.url}):
            for _ in range(2):
                found = await opened(kept, **settings).search(["capital"], 1)
                assert found[0][0].title == word
        assert len(server.requests) == 1


async def test_a_replay_of_several_servers_is_told_which(opened, search_server):
    old, new = (search_server(retrieval(word)).url for word in ("old", "new"))
    await opened("record", backend="server", url=old).search(["a", "b"], 1)
    assert (await opened("replay", backend="server", url="http://moved").search(["a"], 1))[0][0].title == "old"
    await opened("record", backend="server", url=new).search(["a"], 1)
    assert (await opened("replay", backend="server", url=new).search(["a"], 1))[0][0].title == "new"
    for url, query in (("http://moved", "a"), (new, "b")):
        with pytest.raises(SearchUnavailable, match="holds"):
            await opened("replay", backend="server", url=url).search([query], 1)


@pytest.mark.parametrize("kept", ["cache", "record"])
async def test_a_web_search_that_found_nothing_is_asked_again(kept, opened, search_server):
    pages = iter([[], [{"title": "T", "url": "https://l", "content": "S"}]])
    server = search_server(lambda request: {"results": next(pages)})
    found = [await opened(kept, backend="searxng", url=server.url).search(["q"], 1) for _ in range(3)]
    assert [len(passages) for (passages,) in found] == [0, 1, 1]


async def test_images_are_known_by_their_pixels(memory):
    backend = Counting()
    for colour in ("blue", "blue", "green"):
        matches = await RememberingImageSearch(backend, memory(), "b").search(Image.new("RGB", (8, 8), colour), 2)
    assert len(backend.asked) == 2
    assert [match.title for match in matches] == ["red", "bare"]
    assert matches[0].thumbnail.getpixel((0, 0)) == (255, 0, 0)


async def test_a_recording_replays_without_the_network(tmp_path):
    file = tmp_path / "answers.jsonl"
    recorded = await RememberingTextSearch(Counting(), Recording(file), "serper").search(["a"], 1)
    replayed = open_text_search({"backend": "serper", "replay": str(file)})  # no key, no server
    assert await replayed.search(["a"], 1) == recorded


async def test_a_replay_does_not_answer_what_was_not_recorded(tmp_path):
    file = tmp_path / "answers.jsonl"
    await RememberingTextSearch(Counting(), Recording(file), "serper").search(["a"], 1)
    with pytest.raises(SearchUnavailable, match=r"answers\.jsonl"):
        await RememberingTextSearch(None, Replay(file), "serper").search(["z"], 1)


def test_a_missing_recording_is_named(tmp_path):
    with pytest.raises(UsageError, match="record="):
        Replay(tmp_path / "none.jsonl")


def test_a_broken_recording_is_named_by_line(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"key": "a", "answer": []}\nnonsense\n')
    with pytest.raises(UsageError, match="line 2"):
        Replay(tmp_path / "answers.jsonl")


@pytest.mark.parametrize("length", [1, 20, -3, -1], ids=lambda length: f"cut at {length}")
def test_a_recording_goes_on_behind_a_line_that_a_kill_has_cut(tmp_path, caplog, length):
    file = tmp_path / "answers.jsonl"
    first = Recording(file)
    first.put("a", [["ä"]])
    whole = file.read_bytes()
    first.put("b", [["ü"]])
    file.write_bytes(whole + file.read_bytes()[len(whole) :][:length])
    assert Replay(file).get("a") == [["ä"]]
    again = Recording(file)
    assert "half written" in caplog.text
    assert (again.get("a"), again.get("b")) == ([["ä"]], None)
    again.put("b", [["ü"]])
    assert [Replay(file).get(key) for key in "ab"] == [[["ä"]], [["ü"]]]
