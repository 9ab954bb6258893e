"""Each format holds every episode that it has a place for, hostile ones as text, and all that is left out is counted and said."""

import base64
import json
import os
import shutil
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jsonschema
import pyarrow.parquet
import pytest
from interop_runs import CODE, NASTY, episode, ordinary, picture

from configs import compose
from envs.errors import UsageError
from envs.protocols import Hermes
from envs.runtime.progress import silent
from interop.exporting.export import Source, export
from interop.settings import ExportConfig
from reading import export as command
from rollout.store import Store
from rollout.tokens.chat_format import ChatFormat
from rollout.types import Episode
from starter.policies import STARTERS

SCHEMA = json.loads((Path(__file__).parents[1] / "data/atif.schema.json").read_text())


def exported(run, out, *settings):
    """What was written to `out`, and the notes by what they say."""
    config = compose("export", ExportConfig, [f"run={run}", f"out={out}", "policy=starter", *settings])
    done = export(Source(config), config, silent)
    return done, {note.partition(": ")[0]: note.partition(": ")[2] for note in done.notes}


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def samples(path):
    with zipfile.ZipFile(path) as archive:
        read = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    return {(one["id"], one["epoch"]): one for name, one in read.items() if name.startswith("samples/")}, read


def test_inspect_has_a_sample_for_each_episode_and_a_task_has_its_episodes_as_epochs(hostile_run, tmp_path):
    done, notes = exported(hostile_run, tmp_path / "out", "format=inspect")
    by_key, read = samples(tmp_path / "out/rl_000003.eval")
    assert done.episodes == len(by_key) == len(read["summaries.json"]) == 8
    assert Counter(task for task, _ in by_key) == {"six-times-seven": 6, "g1": 1, "too-long": 1}
    first = by_key["six-times-seven", 1]
    asked, acted, shown, answered = first["messages"]
    assert [one["role"] for one in first["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert asked["content"][1] == {"type": "text", "text": "How much?"} and asked["content"][0]["type"] == "image"
    assert acted["tool_calls"][0] | {"id": ""} == {
        "id": "",
        "function": "code",
        "arguments": {"code": "print(6 * 7)"},
        "type": "function",
    }
    key = shown["content"][0]["image"].removeprefix("attachment://")
    assert base64.b64decode(first["attachments"][key].partition(",")[2]) == picture(40).png
    assert answered["content"] == "<think>So.</think><answer>42</answer>"
    assert [event["event"] for event in first["events"]] == ["model", "tool", "model"]
    assert {name: score["value"] for name, score in first["scores"].items()} == {"reward": 1, "accuracy": 1, "format": 1}
    known = {"step": 3, "needed_tools": ["code"], "abilities": ["reasoning"], "policy_versions": [1, 2], "stop_reason": "ANSWERED"}
    assert known.items() <= first["metadata"].items()
    assert by_key["g1", 1]["error"]["message"] == "the node is gone" and by_key["g1", 1]["scores"] is None
    assert by_key["too-long", 1]["scores"]["reward"]["value"] == 0
    assert "is missing" in json.dumps(by_key["six-times-seven", 6]["messages"])
    assert notes == {
        "broken lines left out": "2 (rl_000003.jsonl:11, rl_000003.jsonl:12)",
        "episodes left out, since one of their chains cannot be read": "1 (e7)",
        "images that are missing": "2 (ffffffffffff…, '../../secret')",
        "not read": "rl_000003.w00000000.jsonl.part: a step that is under way, or that was killed",
    }


def test_a_file_that_cannot_be_read_is_left_out_and_not_waited_for(hostile_run, tmp_path):
    run = shutil.copytree(hostile_run, tmp_path / "run")
    os.mkfifo(run / "trajectories/rl_000003.w00000001.jsonl")
    done, notes = exported(run, tmp_path / "out", "format=sharegpt")
    assert (done.episodes > 0, notes["files left out, since they cannot be read"]) == (True, "1 (rl_000003.w00000001.jsonl)")


def test_hostile_texts_stay_the_texts_that_they_are(hostile_run, tmp_path):
    exported(hostile_run, tmp_path / "out", "format=inspect")
    nasty = samples(tmp_path / "out/rl_000003.eval")[0]["six-times-seven", 3]
    said, *_ = [one["content"] for one in nasty["messages"] if one["role"] == "assistant"]
    assert (nasty["input"][0]["content"], said) == (f"What is {NASTY}?", "no action <image> \u202eabc")
    assert nasty["messages"][-1]["content"] == "cut \ufffd"
    assert nasty["limit"]["type"] == "turn" and "judge" not in nasty["scores"]


def test_atif_keeps_to_its_published_schema(hostile_run, tmp_path):
    done, notes = exported(hostile_run, tmp_path / "out", "format=atif")
    documents = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*.json")}
    assert done.episodes == len(documents) == 6
    assert notes["episodes left out, since they ended before their question"] == "2 (e3, e4)"
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for document in documents.values():
        validator.validate({name: value for name, value in document.items() if value is not None})
        assert [step["step_id"] for step in document["steps"]] == list(range(1, len(document["steps"]) + 1))
        for step in document["steps"]:
            results, calls = step.get("observation", {"results": []})["results"], step.get("tool_calls", [])
            assert {one.get("source_call_id") for one in results} <= {None, *(call["tool_call_id"] for call in calls)}
    step = documents["e0.json"]["steps"][1]
    assert step["metrics"]["logprobs"] == [-0.25] * step["metrics"]["completion_tokens"]
    picture_path = step["observation"]["results"][0]["content"][0]["source"]["path"]
    assert (tmp_path / "out/rl_000003" / picture_path).read_bytes() == picture(40).png
    assert not [name for name in documents if "/" in name or name.startswith(".")]


def test_messages_have_an_image_for_each_part_without_a_source(hostile_run, tmp_path):
    done, notes = exported(hostile_run, tmp_path / "out", "format=messages")
    rows = lines(tmp_path / "out/messages.jsonl")
    assert [row["episode_id"] for row in rows] == ["e0", "e0b", "../../e1", "e2", "e6"]
    assert done.episodes == 5
    for row in rows:
        parts = [part for message in row["messages"] for part in message["content"]]
        assert sum(part["type"] == "image" for part in parts) == len(row["images"])
        assert all((tmp_path / "out" / name).is_file() for name in row["images"])
    assert rows[0]["messages"][1]["content"] == [{"type": "text", "text": CODE}]
    left_out = ("since infrastructure failed them", "since they have no turn", "since an image is missing")
    assert [notes[f"episodes left out, {why}"] for why in left_out] == ["1 (e3)", "1 (e4)", "1 (e5)"]


def test_images_can_be_data_urls(chat, tmp_path):
    Store(tmp_path).write("episodes", [ordinary(chat)])
    exported(tmp_path, tmp_path / "out", "format=messages", "images=inline")
    (row,) = lines(tmp_path / "out/messages.jsonl")
    url = row["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")) == picture(10).png
    assert "images" not in row and not (tmp_path / "out/images").exists()


CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "a"}}\n</tool_call>'


def test_calls_are_tool_calls_if_the_template_writes_them_so_and_results_stand_with_their_calls(templated, tmp_path):
    chat = ChatFormat.from_directory(templated["qwen3_vl"])
    spaced = '<tool_call>{"name":"search","arguments":{}}</tool_call>'
    shown = [("tool", "one\ntwo", []), ("tool", "three", [])]
    steps = [
        (f"Two.\n{CALL}\n{CALL}", shown, [("text_search", "ok")] * 2),
        (spaced, [("tool", "four", [])], [("text_search", "error")]),
        ("42", [], []),
    ]
    Store(tmp_path).write("episodes", [episode(chat, "e0", steps, protocol=Hermes())])
    _, notes = exported(tmp_path, tmp_path / "out", "format=messages", "protocol=hermes", f"policy={templated['qwen3_vl']}")
    (row,) = lines(tmp_path / "out/messages.jsonl")
    _, acted, first, second, again, *_ = row["messages"]
    assert [one["role"] for one in row["messages"]] == ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
    assert acted["content"][0]["text"] == "Two."
    assert [json.loads(call["function"]["arguments"]) for call in acted["tool_calls"]] == [{"query": "a"}] * 2
    assert [one["content"][0]["text"] for one in (first, second)] == ["one\ntwo", "three"]
    assert [one["tool_call_id"] for one in (first, second)] == [call["id"] for call in acted["tool_calls"]]
    assert again["content"][0]["text"] == spaced
    assert notes == {"turns whose calls are text, since written again they would differ from what was sampled": "1"}


def test_sharegpt_alternates_and_has_a_placeholder_for_each_image(hostile_run, tmp_path):
    _, notes = exported(hostile_run, tmp_path / "out", "format=sharegpt")
    for row in lines(tmp_path / "out/sharegpt.jsonl"):
        roles = [turn["from"] for turn in row["conversations"]]
        assert roles == ["human", "gpt"] * (len(roles) // 2)
        text = "".join(turn["value"] for turn in row["conversations"])
        assert text.count("<image>") == len(row["images"])
    assert notes["texts in which <image> and the like are written &lt;image>, since they are no placeholders"] == "2"
    info = json.loads((tmp_path / "out/dataset_info.json").read_text())["toolwise"]
    assert info["file_name"] == "sharegpt.jsonl" and info["columns"]["messages"] == "conversations"


@pytest.mark.parametrize("images", ["files", "inline"])
def test_parquet_has_a_row_for_each_episode(hostile_run, tmp_path, images):
    exported(hostile_run, tmp_path / "out", "format=parquet", f"images={images}")
    rows = pyarrow.parquet.read_table(tmp_path / "out/episodes.parquet").to_pylist()
    assert [row["episode_id"] for row in rows] == ["e0", "e0b", "../../e1", "e2", "e6"]
    for row in rows:
        assert sum(message["content"].count("<image>") for message in row["messages"]) == len(row["images"])
    first = rows[0]
    assert [turn["tool_calls"][0]["status"] for turn in first["turns"][:1]] == ["ok"]
    assert len(rows[4]["token_chains"]) == 2 and sum(first["token_chains"][0]["loss_mask"]) > 0
    shown = first["images"][0]
    assert (shown["bytes"] if images == "inline" else (tmp_path / "out" / shown["image"]).read_bytes()) == picture(10).png


def test_only_right_answers_and_so_many_episodes(hostile_run, tmp_path):
    done, notes = exported(hostile_run, tmp_path / "out", "format=messages", "only=right", "episodes=3")
    assert [row["episode_id"] for row in lines(tmp_path / "out/messages.jsonl")] == ["e0", "e0b", "e2"]
    assert done.episodes == 3 and notes["episodes left out by only=right"] == "3"


REFUSED = {
    "no run": (["run=runs/nowhere"], "there is no run at runs/nowhere: write run="),
    "unnamed": ([], "no run is named: write run="),
    "format": (["format=xml"], "format=xml: write inspect or atif or messages or sharegpt or parquet"),
    "name": (["run=RUN", "names=[rl_9]", "policy=starter"], "has no rl_9: write names= some of rl_000003"),
    "no policy": (["run=RUN"], "write policy= the policy in whose tokens it is"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses_in_one_line_and_writes_nothing(hostile_run, tmp_path, name):
    settings, remedy = REFUSED[name]
    with pytest.raises(UsageError) as refusal:
        command([f"out={tmp_path}/out", *(text.replace("RUN", str(hostile_run)) for text in settings)])
    assert remedy in str(refusal.value) and "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_the_tokens_of_another_policy_are_refused(chat, tmp_path):
    (chain,) = ordinary(chat).chains
    shifted = [token + mask for token, mask in zip(chain.token_ids, chain.loss_mask, strict=True)]
    Store(tmp_path).write("episodes", [Episode((replace(chain, token_ids=shifted),), ordinary(chat).images)])
    with pytest.raises(UsageError, match="write policy= the policy that the run was sampled from"):
        exported(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_written_over(hostile_run, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UsageError, match="exists already"):
        command([f"run={hostile_run}", "policy=starter", f"out={tmp_path}"])


def test_it_finds_the_tokenizer_in_a_checkpoint_and_says_who_reads_what_it_wrote(chat, tmp_path, capsys):
    Store(tmp_path / "run").write("episodes", [ordinary(chat)])
    checkpoint = tmp_path / "run/checkpoints/step_1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "policy").symlink_to(STARTERS["starter"])
    assert command([f"run={tmp_path}/run", f"out={tmp_path}/out"]) == 0
    said = capsys.readouterr().out
    assert f"wrote {tmp_path}/out/: episodes.eval" in said and f"next: inspect view --log-dir {tmp_path}/out" in said
