"""A demonstration is learned in the protocol of the tasks, whatever it was recorded in, and what changes is said."""

import json

import pytest

from curation.forms import Form, same
from curation.recorded import read_demonstrations
from curation.stored import read_episodes
from envs import Task, ToolEnv
from envs.errors import DatasetError, UsageError
from envs.protocols import Answer, Call, Calls, DeepEyes, Hermes, Native
from rollout.config import EpisodeConfig
from rollout.store import Store
from rollout.tokens.chat_format import ChatMessage
from rollout.tokens.transcript import Transcript
from rollout.types import Generation, StopReason, ToolCallRecord, Turn

FORMS = {"deepeyes": DeepEyes(), "hermes": Hermes(), "tagged": Hermes(answer="tag")}
CODE = "<code>\n```python\nprint(7)\n```\n</code>"
CALL = '<tool_call>\n{"name": "code", "arguments": {"code": "print(7)"}}\n</tool_call>'
QUESTION = {"role": "user", "content": "What is 3 + 4?"}


def form(protocol):
    env = ToolEnv([Task("t", "What?", "7", abilities=(), source="s")], tools=["code"], protocol=protocol)
    return Form(protocol, env.tool_guides, {"code": "code"})


def called(*calls, text=None):
    made = [
        {"id": str(n), "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": text, "tool_calls": made}


def tool(text):
    return {"role": "tool", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


RECORDED = {
    "tags": [
        {"role": "system", "content": "Write <code>."},
        QUESTION,
        said(f"<think>Add.</think>{CODE}"),
        {"role": "user", "content": "7"},
        said("<answer>7</answer>"),
    ],
    "hermes": [
        {"role": "system", "content": "# Tools\n<tools>[]</tools>"},
        QUESTION,
        said(f"<think>Add.</think>\n{CALL}"),
        tool("7"),
        said("7"),
    ],
    "api": [QUESTION, called(("python", {"source": "print(7)"}), text="Add."), tool("7"), said("7")],
}


def read(path, chat, messages, protocol, **changes):
    path.write_text(json.dumps([{"messages": messages, **changes}]))
    (episode,) = read_demonstrations(path, chat, EpisodeConfig(), count=None, seed=0, form=form(protocol))
    return episode.trajectory


@pytest.mark.parametrize("recorded", RECORDED)
@pytest.mark.parametrize("name", FORMS)
def test_each_recorded_form_is_learned_in_each_protocol(tmp_path, chat, recorded, name):
    protocol = FORMS[name]
    trajectory = read(tmp_path / "sft.json", chat, RECORDED[recorded], protocol)
    actions = [protocol.parse(turn.action) for turn in trajectory.turns]
    assert actions == [Calls((Call("code", {"code": "print(7)"}),)), Answer("7")]
    assert "Add." in trajectory.turns[0].action
    assert ("<code>" in trajectory.turns[0].action) == (name == "deepeyes")
    prompt = chat.decode(trajectory.token_ids[: trajectory.prompt_length])
    assert ("Write <code>" in prompt) == ((recorded, name) == ("tags", "deepeyes"))
    assert ("You may call one or more functions" in prompt) == (name != "deepeyes" and (recorded, name) != ("hermes", "hermes"))


def test_what_changes_is_counted(tmp_path, chat, caplog):
    read(tmp_path / "sft.json", chat, RECORDED["hermes"], DeepEyes())
    assert "sft.json: 1 demonstrations are in the protocol hermes, and are written in deepeyes" in caplog.text
    assert "1 demonstrations are learned without their system prompts" in caplog.text
    assert "1 demonstrations end in words that are not between <answer> and </answer>" in caplog.text


def test_what_is_in_the_protocol_is_learned_as_it_stands(tmp_path, chat, caplog):
    trajectory = read(tmp_path / "sft.json", chat, RECORDED["tags"], DeepEyes())
    assert [turn.action for turn in trajectory.turns] == [f"<think>Add.</think>{CODE}", "<answer>7</answer>"]
    assert caplog.text == ""


CALLS = called(("a", {"x": 1}), ("b", {"x": 2}))


def test_several_calls_of_a_turn_become_turns_with_their_own_results(tmp_path, chat):
    trajectory = read(tmp_path / "sft.json", chat, [QUESTION, CALLS, tool("one"), tool("two"), said("7")], DeepEyes())
    assert [(turn.tool, turn.observation.split()) for turn in trajectory.turns[:2]] == [
        ("a", ["<tool_response>", "one", "</tool_response>"]),
        ("b", ["<tool_response>", "two", "</tool_response>"]),
    ]
    text = "<tool_call>{}</tool_call>\n<tool_call>{}</tool_call>".format('{"name": "a"}', '{"name": "b"}')
    both = {"role": "user", "content": "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"}
    trajectory = read(tmp_path / "sft.json", chat, [QUESTION, said(text), both, said("<answer>7</answer>")], DeepEyes())
    assert [turn.tool for turn in trajectory.turns] == ["a", "b", None]


def test_results_that_cannot_be_told_apart_are_refused(tmp_path, chat):
    with pytest.raises(DatasetError, match="2 calls, and 1 results follow: write a message of the role tool for each"):
        read(tmp_path / "sft.json", chat, [QUESTION, CALLS, tool("one and two"), said("7")], DeepEyes())


def test_words_too_long_for_an_answer_are_refused(tmp_path, chat):
    messages = [QUESTION, called(("code", {"code": "1"})), tool("1"), said("so " * 200)]
    with pytest.raises(DatasetError, match="write the answer alone between <answer> and </answer>"):
        read(tmp_path / "sft.json", chat, messages, DeepEyes())


def test_tools_that_the_tasks_do_not_have_are_named(tmp_path, chat, caplog):
    read(tmp_path / "sft.json", chat, [QUESTION, called(("zoom", {"x": 1})), tool("1"), said("<answer>7</answer>")], DeepEyes())
    assert "1 demonstrations call the tool zoom, which the tasks do not have" in caplog.text


def test_an_exported_episode_is_learned_if_it_was_right_and_its_calls_ran(tmp_path, chat):
    path, messages = tmp_path / "sft.json", RECORDED["api"]
    turns = [{"tool_calls": [{"tool": "code", "status": "ok"}]}, {"tool_calls": []}]
    trajectory = read(path, chat, messages, DeepEyes(), turns=turns, reward_parts={"accuracy": 1.0}, abilities=["a", "b"])
    assert trajectory.abilities == ("a", "b")
    with pytest.raises(DatasetError, match="its answer was wrong"):
        read(path, chat, messages, DeepEyes(), turns=turns, reward_parts={"accuracy": 0.0})
    turns[0]["tool_calls"][0]["status"] = "error"
    with pytest.raises(DatasetError, match=r"a call of code failed \(error\)"):
        read(path, chat, messages, DeepEyes(), turns=turns, reward_parts={"accuracy": 1.0})


def test_native_and_hermes_are_the_same_in_tokens():
    assert same(Hermes(), Native())
    assert not same(Hermes(), Hermes(answer="tag"))
    assert not same(Hermes(), DeepEyes())


def stored(tmp_path, chat, settings):
    transcript = Transcript(chat, max_tokens=512, observation_tokens=64)
    transcript.append_observation([ChatMessage("user", "What?")])
    for action in (CODE, "<answer>7</answer>"):
        tokens = chat.encode_action(action, DeepEyes.stop)
        transcript.append_generation(Generation(tokens, [0.0] * len(tokens), "stop", 0))
        if action == CODE:
            transcript.append_observation([ChatMessage("user", "7")])
    episode = transcript.episode(
        [Turn(action=CODE, tool_calls=[ToolCallRecord("code", "ok", 0.0)]), Turn(action="<answer>7</answer>")],
        **dict.fromkeys(("episode_id", "task_id", "group_id"), "e"),
        abilities=(),
        source="s",
        seed=0,
        reward=1.0,
        reward_parts={"accuracy": 1.0},
        answer="7",
        stop_reason=StopReason.ANSWERED,
    )
    Store(tmp_path).write("episodes", [episode])
    if settings:
        (tmp_path / "config.yaml").write_text(settings if isinstance(settings, str) else json.dumps(settings))
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"tasks": "toolwise/Basics-v0"}, "the protocol deepeyes"),
        ({}, "another protocol"),
        ({"tasks": "gone:Env-v0"}, "another protocol"),
        ("tasks: [", "another protocol"),
    ],
    ids=["of the run", "no settings", "tasks that are gone", "broken settings"],
)
def test_stored_episodes_of_another_protocol_are_refused(tmp_path, chat, settings, name):
    run = stored(tmp_path, chat, settings)
    assert len(read_episodes(run, chat, count=None, seed=0, form=form(DeepEyes()))[0]) == 1
    with pytest.raises(UsageError, match=rf"is recorded in {name}, and the tasks have hermes: collect it .*toolwise export"):
        read_episodes(run, chat, count=None, seed=0, form=form(Hermes()))
