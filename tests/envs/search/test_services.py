"""Every search over HTTP, against a real server that answers in that API's documented form, and against ones that are slow, drop
connections, answer 429, 500 or garbage: then the episode goes on with an error observation. Keys stay secret."""

import base64
import io

import gymnasium
import pytest
from PIL import Image

from envs.errors import SearchUnavailable, UsageError
from envs.search.backends import open_image_search, open_text_search
from envs.search.http import HttpClient
from envs.types import ToolStatus

KEYS = {"serper": "SERPER_API_KEY", "serpapi": "SERPAPI_API_KEY", "tavily": "TAVILY_API_KEY"}


def retrieval(request):
    documents = [{"id": "7", "contents": f'"Title of {query}"\nText of {query}.'} for query in request["json"]["queries"]]
    return {"result": [[{"document": document, "score": 1.5}] * request["json"]["topk"] for document in documents]}


def serper(request):
    return {"searchParameters": {"q": "q"}, "organic": [{"title": "T", "link": "https://l", "snippet": "S", "position": 1}] * 9}


def serpapi(request):
    return {"search_metadata": {"status": "Success"}, "organic_results": [{"title": "T", "link": "https://l", "snippet": "S"}] * 9}


def searxng(request):
    return {"query": "q", "results": [{"title": "T", "url": "https://l", "content": "S", "engine": "x"}] * 9}


def tavily(request):
    return {"query": "q", "results": [{"title": "T", "url": "https://l", "content": "S", "score": 0.9}] * 9}


WEB = {"serper": serper, "serpapi": serpapi, "searxng": searxng, "tavily": tavily}


def thumbnail():
    file = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def lens(request):
    return {"results": [{"title": "T", "link": "https://l", "thumbnail": thumbnail()}, {"title": "bare"}]}


@pytest.fixture
def keys(monkeypatch):
    for name in KEYS.values():
        monkeypatch.setenv(name, "s3cret")


async def test_a_retrieval_server_is_asked_all_queries_at_once(search_server):
    server = search_server(retrieval)
    found = await open_text_search(server.url).search(["a", "b"], 2)
    assert [[(p.title, p.source, p.snippet) for p in passages] for passages in found] == [
        [("Title of a", "7", "Text of a.")] * 2,
        [("Title of b", "7", "Text of b.")] * 2,
    ]
    assert [request["path"] for request in server.requests] == ["/retrieve"]


@pytest.mark.parametrize("name", WEB)
async def test_a_web_search_is_read(search_server, keys, name):
    server = search_server(WEB[name])
    search = open_text_search({"backend": name, "url": server.url})
    found = await search.search(["what is it?", "and that?"], 3)
    assert [[(p.title, p.source, p.snippet) for p in passages] for passages in found] == [[("T", "https://l", "S")] * 3] * 2
    assert len(server.requests) == 2


async def test_a_busy_service_is_asked_again_when_it_says(search_server, keys):
    server = search_server(serper, 429, 503, headers={"Retry-After": "0"})
    found = await open_text_search({"backend": "serper", "url": server.url}).search(["q"], 1)
    assert found[0][0].title == "T"
    assert len(server.requests) == 3


async def test_a_refusal_is_not_asked_again(search_server, keys):
    server = search_server(serper, (403,))
    with pytest.raises(SearchUnavailable, match="403"):
        await open_text_search({"backend": "serper", "url": server.url}).search(["q"], 1)
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("trouble", [500, 403, "garbage", "drop"])
async def test_no_error_names_a_key(search_server, keys, name, trouble):
    server = search_server(WEB[name], (trouble,))
    with pytest.raises(SearchUnavailable) as raised:
        await open_text_search({"backend": name, "url": server.url, "attempts": 1}).search(["q"], 1)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("name", KEYS)
def test_a_missing_key_is_named_before_anything_runs(monkeypatch, name):
    monkeypatch.delenv(KEYS[name], raising=False)
    with pytest.raises(UsageError, match=KEYS[name]):
        open_text_search({"backend": name, "url": f"http://127.0.0.1:1/{name}"})


async def test_an_image_server_is_sent_the_picture(search_server):
    server = search_server(lens)
    matches = await open_image_search({"backend": "server", "url": server.url}).search(Image.new("RGB", (40, 30), "blue"), 5)
    assert [(match.title, match.source) for match in matches] == [("T", "https://l"), ("bare", "")]
    assert matches[0].thumbnail.size == (20, 10)
    assert matches[1].thumbnail is None
    with Image.open(io.BytesIO(base64.b64decode(server.requests[0]["json"]["image"]))) as sent:
        assert sent.size == (40, 30)


async def test_a_thumbnail_that_is_a_bomb_is_left_out(search_server):
    file = io.BytesIO()
    Image.new("L", (5000, 5000)).save(file, "PNG")
    bomb = base64.b64encode(file.getvalue()).decode()
    server = search_server(lambda request: {"results": [{"title": "T", "thumbnail": bomb}]})
    (match,) = await open_image_search({"backend": "server", "url": f"{server.url}/bomb"}).search(Image.new("RGB", (9, 9)), 1)
    assert match.thumbnail is None


@pytest.mark.parametrize("trouble", [500, 404, "drop", "garbage"])
async def test_a_thumbnail_that_cannot_be_fetched_is_left_out(search_server, trouble):
    pictures = search_server(lens, (trouble,))
    server = search_server(lambda request: {"results": [{"title": "T", "thumbnail": f"{pictures.url}/t.png"}]})
    (match,) = await open_image_search({"backend": "server", "url": server.url}).search(Image.new("RGB", (9, 9)), 1)
    assert (match.title, match.thumbnail) == ("T", None)


@pytest.mark.parametrize("trouble", [429, 500, "garbage", "drop", "slow"])
@pytest.mark.parametrize("kind", ["text", "image"])
async def test_an_episode_goes_on_when_a_search_is_not_available(search_server, trouble, kind):
    server = search_server(retrieval if kind == "text" else lens, (trouble,))
    settings = {"backend": "server", "url": server.url, "attempts": 2, "timeout_s": 0.3}
    env = gymnasium.make("toolwise/Perception-v0", disable_env_checker=True, **{f"{kind}_search": settings}).unwrapped
    await env.reset_async(seed=0)
    name = "search" if kind == "text" else "image_search"
    call = f'<tool_call>{{"name": "{name}", "arguments": {{"query": "x"}}}}</tool_call>'
    observation, _, terminated, truncated, info = await env.step_async(call)
    assert info["tool_call"].status is ToolStatus.UNAVAILABLE
    assert "not available" in observation["text"]
    assert not terminated and not truncated
    assert (await env.step_async("<answer>1</answer>"))[2]
    assert len(server.requests) == 2


async def test_a_form_that_is_not_the_documented_one_is_no_answer(search_server, keys):
    for answer in ([], {"organic": "x"}, {"organic": [1]}):
        server = search_server(lambda request, answer=answer: answer)
        with pytest.raises(SearchUnavailable, match="form"):
            await open_text_search({"backend": "serper", "url": server.url}).search(["q"], 1)


def test_one_client_serves_several_event_loops(search_server):
    import asyncio

    from envs.search.http import Request

    client, server = HttpClient(), search_server(searxng)
    for _ in range(2):
        assert asyncio.run(client.json(Request("GET", server.url)))["query"] == "q"


@pytest.mark.parametrize(
    "settings", [{"backend": "gogle"}, {"backend": "serper", "pth": "x"}, {"backend": "server"}, "/no/such/index"]
)
def test_settings_of_no_search_are_refused(settings, keys):
    with pytest.raises(UsageError, match=r"write|needs|toolwise index"):
        open_text_search(settings)
