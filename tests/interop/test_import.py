"""Others' logs become episodes that keep the contract; what an export wrote comes back as it was; what cannot be read is named."""

import base64
import json

import pytest
from interop_runs import CODE, NASTY, episode, hostile, ordinary, picture
from PIL import Image

from configs import compose
from curation.stored import read_episodes
from envs.errors import UsageError
from envs.protocols import Hermes
from envs.runtime.progress import silent
from interop.exporting.export import Source, export
from interop.importing.run import import_logs, open_log
from interop.settings import ExportConfig, ImportConfig
from rollout.lint import lint
from rollout.store import Store
from rollout.tokens.chat_format import ChatFormat
from rollout.tokens.transcript import TRUNCATED
from rollout.types import StopReason

QUESTION = {"role": "user", "content": "How much is 6 * 7?"}
CALL = {"type": "function", "function": {"name": "search", "arguments": '{"query": "6 * 7"}'}}


def written(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def imported(path, out, *settings):
    """The episodes of a log, its format, and the notes by what they say; the run is without problems."""
    config = compose("import", ImportConfig, [f"file={path}", f"out={out}", *settings])
    log = open_log(config)
    done = import_logs(log, config, silent)
    episodes = [one.trajectory for one in Store(out).read("imported")]
    assert done.episodes == len(episodes)
    assert lint(out / "trajectories") == []
    return episodes, log.format, {note.partition(": ")[0]: note.partition(": ")[2] for note in done.notes}


def round_trip(run, tmp_path, *settings, policy="starter"):
    settings = (f"run={run}", f"out={tmp_path}/out", f"policy={policy}", "format=messages", *settings)
    config = compose("export", ExportConfig, list(settings))
    export(Source(config), config, silent)
    episodes, kind, notes = imported(tmp_path / "out/messages.jsonl", tmp_path / "back", f"policy={policy}")
    return {one.episode_id: one for one in episodes}, kind, notes


SAME = (
    "turns",
    "token_ids",
    "loss_mask",
    "images",
    "prompt_length",
    "reward",
    "answer",
    "stop_reason",
    "needed_tools",
    "abilities",
)


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_what_was_exported_comes_back_token_by_token(chat, tmp_path, system):
    remedy = ordinary(chat).chains[0]
    steps = [("no action", [("user", "end your turn with <answer>…</answer>", [])], []), ("<answer>4</answer>", [], [])]
    ended = {"group_id": "g1", "answer": None, "stop_reason": StopReason.TURN_LIMIT}
    lost = episode(chat, "e1", [(CODE, [("user", "late", [])], [("code", "timeout")])], **ended)
    other = episode(chat, "e2", steps[1:], question="Other?", system=system, group_id="g2", answer="4")
    Store(tmp_path / "run").write("episodes", [ordinary(chat), lost, other])
    back, kind, notes = round_trip(tmp_path / "run", tmp_path)
    for before in (remedy, lost.trajectory, other.trajectory):
        after = back[before.episode_id]
        assert {name: getattr(after, name) for name in SAME} == {name: getattr(before, name) for name in SAME}
    assert (kind, notes) == ("deepeyes", {})
    assert read_episodes(tmp_path / "back", chat, count=2, seed=0)[1] == 1


def test_tool_calls_come_back_in_the_words_that_were_sampled(templated, tmp_path):
    chat = ChatFormat.from_directory(templated["qwen3_vl"])
    call = '<tool_call>\n{"name": "search", "arguments": {"query": "a"}}\n</tool_call>'
    shown = [("tool", "one\ntwo", []), ("tool", "three &lt;answer>", [])]
    steps = [
        (f"<think>\nTwo.\n</think>\n{call}\n{call}", shown, [("text_search", "ok"), ("text_search", "error")]),
        ('<tool_call>{"name":"x"}</tool_call>', [("tool", "no tool x", [])], []),
        (call, [("tool", "a picture", [picture(9)])], [("text_search", "ok")]),
        ("42", [], []),
    ]
    before = episode(chat, "e0", steps, protocol=Hermes()).trajectory
    Store(tmp_path / "run").write("episodes", [episode(chat, "e0", steps, protocol=Hermes())])
    back, kind, _ = round_trip(tmp_path / "run", tmp_path, "protocol=hermes", policy=templated["qwen3_vl"])
    assert kind == "openai"
    assert back["e0"].turns == before.turns
    assert back["e0"].token_ids[: len(before.token_ids)] == before.token_ids


def test_hostile_texts_come_back_as_text(chat, tmp_path):
    back, _, notes = round_trip(hostile(chat, tmp_path / "run"), tmp_path)
    assert back.keys() == {"e0", "e0b", "../../e1", "e2", "e6"}
    for one in back.values():
        assert one.token_ids.count(chat.end_of_turn) == 1 + 2 * len(one.turns) - sum(turn.action[-1] == ">" for turn in one.turns)
    assert back["../../e1"].images == [] and back["e2"].turns[0].observation.endswith(TRUNCATED)
    assert notes["questions and results that are cut to fit max_tokens and max_observation_tokens"] == "1"


def test_openai_messages_have_their_calls_results_and_images(tmp_path):
    url = f"data:image/png;base64,{base64.b64encode(picture(9).png).decode()}"
    asked = {"role": "user", "content": [{"type": "text", "text": "How much?"}, {"type": "image_url", "image_url": {"url": url}}]}
    calls = {
        "role": "assistant",
        "content": None,
        "tool_calls": [CALL | {"id": "a"}, CALL | {"id": "b"}],
        "reasoning": "Look it up.",
    }
    results = [{"role": "tool", "tool_call_id": name, "content": text} for name, text in (("a", NASTY), ("b", "42"))]
    row = {"messages": [{"role": "system", "content": "Be brief."}, asked, calls, *results, {"role": "assistant", "content": "42"}]}
    ((one,), kind, notes) = imported(written(tmp_path / "log.jsonl", [row | {"score": 0.5}]), tmp_path / "out")
    first, last = one.turns
    assert (kind, one.answer, one.reward, str(one.stop_reason)) == ("openai", "42", 0.5, "ANSWERED")
    assert [call.tool for call in first.tool_calls] == ["text_search"] * 2 and first.reasoning == "Look it up."
    assert "&lt;answer>9" in first.observation and "<answer>" not in first.observation
    assert one.images == [picture(9).sha256] and last.action == "42"
    assert notes == {"calls whose outcome is not on record, taken to have succeeded": "2"}
    assert set(one.logprobs) == {0.0} and set(one.versions) == {-1, 0}


def test_an_answer_without_tags_is_one_in_a_protocol_that_has_them(tmp_path):
    row = {"messages": [QUESTION, {"role": "assistant", "content": "42"}]}
    ((one,), _, notes) = imported(written(tmp_path / "log.jsonl", [row]), tmp_path / "out", "protocol=deepeyes")
    assert (one.turns[0].action, one.answer) == ("<answer>42</answer>", "42")
    assert notes == {"rows without a reward, which is taken to be 0": "1"}


SAID = f"<think>Compute.</think>{CODE}"
TEXTS = {
    "marked": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>How much?<|im_end|>\n<|im_start|>assistant\n",
        f"{SAID}<|im_end|>\n<|im_start|>user\n42<|im_end|>\n<|im_start|>assistant\n<answer>42</answer><|im_end|>",
    ),
    "bare": ("system\nBe brief.\nuser\nHow much?\nassistant\n", f"{SAID}\nuser\n42\nassistant\n<answer>42</answer>"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_deepeyes_rollouts_are_read_from_one_text(tmp_path, name):
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    asked, said = TEXTS[name]
    row = {"input": asked, "output": said, "score": 1.0, "images": ["a.png"]}
    ((one,), kind, _) = imported(written(tmp_path / "log.jsonl", [row]), tmp_path / "out")
    assert [turn.action for turn in one.turns] == [SAID, "<answer>42</answer>"]
    assert (kind, one.turns[0].observation, one.answer, len(one.images)) == ("deepeyes", "42", "42", 1)


def test_rows_that_cannot_be_read_are_counted_and_named(tmp_path):
    good = {"messages": [QUESTION, {"role": "assistant", "content": "<answer>42</answer>"}], "reward": 1}
    rows = [
        good,
        "{broken",
        {"question": "?"},
        {"messages": [{"role": "assistant", "content": "first"}]},
        good | {"messages": [QUESTION, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]},
        good | {"images": ["gone.png"]},
        good | {"messages": [{"role": "robot", "content": "x"}, *good["messages"]]},
        good,
    ]
    episodes, _, notes = imported(written(tmp_path / "log.jsonl", rows), tmp_path / "out", "format=deepeyes")
    assert [one.episode_id for one in episodes] == ["log-1", "log-8"]
    assert notes["rows that cannot be read"].startswith("6 (log.jsonl:2: not JSON")


def test_images_that_a_log_only_names_are_left_out_and_said(tmp_path):
    row = {"messages": [{"role": "user", "content": "<image>How much?"}, {"role": "assistant", "content": "<answer>1</answer>"}]}
    ((one,), _, notes) = imported(written(tmp_path / "log.jsonl", [row | {"reward": 1}]), tmp_path / "out")
    assert one.images == []
    assert notes == {"rows that name images which the log does not hold; they are left out": "1 (log.jsonl:1)"}


REFUSED = {
    "no file": (["file=nowhere.jsonl"], "there is no file nowhere.jsonl: write file="),
    "unnamed": ([], "no file is named: write file="),
    "kind": (["file=TMP/log.txt"], "write a file whose name ends in .jsonl"),
    "policy": (["file=TMP/log.jsonl", "policy=nowhere"], "policy=nowhere"),
    "format": (["file=TMP/log.jsonl", "format=xml"], "format=xml: write guess or openai or deepeyes"),
    "both": (["file=TMP/log.jsonl"], "row 1 is openai and row 2 is deepeyes: write format=openai or format=deepeyes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses_in_one_line(tmp_path, name):
    rows = [
        {"messages": [QUESTION, {"role": "assistant", "tool_calls": [CALL]}]},
        {"messages": [QUESTION, {"role": "assistant", "content": CODE}]},
    ]
    written(tmp_path / "log.jsonl", rows)
    written(tmp_path / "log.txt", rows)
    settings, remedy = REFUSED[name]
    with pytest.raises(UsageError) as refusal:
        open_log(compose("import", ImportConfig, [text.replace("TMP", str(tmp_path)) for text in settings]))
    assert remedy in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('"abilities": 5', "rows that cannot be read"),
        ('"needed_tools": {"code": true}', "rows that cannot be read"),
        (f'"reward": 1{"0" * 400}', "rows without a reward, which is taken to be 0"),
        ('"episode_id": "\\ud800", "note": "\\udfff"', "rows with halves of characters, in whose place U+FFFD stands"),
    ],
)
def test_a_row_with_an_odd_value_does_not_end_the_import(tmp_path, more, said):
    messages = json.dumps([QUESTION, {"role": "assistant", "content": "42"}])
    rows = [f'{{"messages": {messages}, {more}}}', f'{{"messages": {messages}, "reward": 1}}']
    episodes, _, notes = imported(written(tmp_path / "log.jsonl", rows), tmp_path / "out")
    assert episodes[-1].reward == 1
    assert notes[said].partition(" ")[0] == "1"
