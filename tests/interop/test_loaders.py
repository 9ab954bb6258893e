"""What TRL, LLaMA-Factory and verl ask of a file, without these packages: the rules stand in their loaders (docs/formats.md names
the versions), and a row that breaks one is refused there or loses a part in silence."""

import json
from itertools import groupby

import pyarrow.parquet
import pytest
from interop_runs import episode, ordinary, picture
from transformers import AutoProcessor

from configs import compose
from envs.protocols import Hermes
from envs.runtime.progress import silent
from interop.exporting.export import Source, export, followed_by
from interop.settings import ExportConfig
from rollout.store import Store
from rollout.tokens.chat_format import ChatFormat

CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "a"}}\n</tool_call>'
STEPS = [
    (CALL, [("tool", "found", [picture(40)])], [("image_search", "ok")]),
    (f"Two.\n{CALL}\n{CALL}", [("tool", "one", []), ("tool", "two", [])], [("text_search", "ok")] * 2),
    ("It is 42.", [], []),
]


def exported(policy, tmp_path, protocol, *settings, name="e0"):
    """What was written of one episode, in a template's tokens; its tokens; what was said."""
    chat = ChatFormat.from_directory(policy)
    made = {
        "hermes": lambda: episode(chat, name, STEPS, protocol=Hermes(), system="Be brief.", images=[picture(10)]),
        "deepeyes": lambda: ordinary(chat, name),
    }[protocol]()
    Store(tmp_path / "run").write("episodes", [made])
    given = [f"run={tmp_path}/run", f"out={tmp_path}/out", f"policy={policy}", f"protocol={protocol}", *settings]
    config = compose("export", ExportConfig, given)
    done = export(Source(config), config, silent)
    return made.trajectory, [note.partition(": ")[0] for note in done.notes], followed_by(config)


def rows(tmp_path, name):
    return [json.loads(line) for line in (tmp_path / "out" / name).read_text().splitlines()]


def rendered(policy, messages):
    """The tokens of a conversation as a trainer that has the template alone would see them, images as one placeholder each."""
    return AutoProcessor.from_pretrained(policy).apply_chat_template(messages, tokenize=False)


def sampled_text(policy, record):
    text = ChatFormat.from_directory(policy).tokenizer.decode(record.token_ids)
    return "<|image_pad|>".join(part for part in text.split("<|image_pad|>") if part)


@pytest.mark.parametrize(("template", "protocol"), [("qwen3_vl", "hermes"), ("qwen3_vl", "deepeyes"), ("qwen2_5_vl", "deepeyes")])
def test_trl_renders_messages_as_they_were_sampled(templated, tmp_path, template, protocol):
    record, *_ = exported(templated[template], tmp_path, protocol, "format=messages")
    (row,) = rows(tmp_path, "messages.jsonl")
    assert rendered(templated[template], row["messages"]).startswith(sampled_text(templated[template], record))


@pytest.mark.parametrize("template", ["qwen3_vl", "qwen2_5_vl"])
def test_trl_counts_the_images_of_messages_that_are_no_tools(templated, tmp_path, template):
    _, notes, _ = exported(templated[template], tmp_path, "hermes", "format=messages")
    (row,) = rows(tmp_path, "messages.jsonl")
    spoken = [message for message in row["messages"] if message["role"] != "tool"]
    assert sum(part["type"] == "image" for message in spoken for part in message["content"] or ()) == len(row["images"]) == 2
    assert "results with images that stand in a message of the user, since TRL takes none in a tool's" in notes


def test_a_template_that_drops_tool_calls_has_them_as_text(templated, tmp_path):
    _, notes, _ = exported(templated["qwen2_5_vl"], tmp_path, "hermes", "format=messages")
    (row,) = rows(tmp_path, "messages.jsonl")
    assert not [message for message in row["messages"] if "tool_calls" in message]
    assert rendered(templated["qwen2_5_vl"], row["messages"]).count("<tool_call>") == 3
    assert "turns whose calls are text, since the policy's chat template would write tool_calls otherwise" in notes


def test_what_apis_are_sent_has_tool_calls_and_tools_whatever_the_template_does(templated, tmp_path):
    exported(templated["qwen2_5_vl"], tmp_path, "hermes", "format=messages", "images=inline")
    (row,) = rows(tmp_path, "messages.jsonl")
    roles = ["system", "user", "assistant", "tool", "assistant", "tool", "tool", "assistant"]
    assert [one["role"] for one in row["messages"]] == roles
    assert row["messages"][2]["content"] is None and row["messages"][2]["tool_calls"]


@pytest.mark.parametrize("protocol", ["hermes", "deepeyes"])
def test_llama_factory_finds_every_column_of_its_entry_in_every_row_and_roles_in_turn(templated, tmp_path, protocol):
    exported(templated["qwen3_vl"], tmp_path, protocol, "format=sharegpt")
    entry = json.loads((tmp_path / "out/dataset_info.json").read_text())["toolwise"]
    for row in rows(tmp_path, entry["file_name"]):
        assert set(entry["columns"].values()) <= row.keys()
        asks = [turn["from"] in ("human", "observation") for turn in row[entry["columns"]["messages"]]]
        assert len(asks) % 2 == 0 and asks == [True, False] * (len(asks) // 2)
        assert sum(turn["value"].count("<image>") for turn in row["conversations"]) == len(row["images"])


def test_verl_renders_each_message_by_itself_as_the_template_does_all(templated, tmp_path):
    record, *_ = exported(templated["qwen3_vl"], tmp_path, "hermes", "format=parquet")
    (row,) = pyarrow.parquet.read_table(tmp_path / "out/episodes.parquet").to_pylist()
    assert [
        (role, len(list(run))) for role, run in groupby(row["messages"], lambda message: message["role"]) if role == "tool"
    ] == [("tool", 1)] * 2
    apart = "".join(rendered(templated["qwen3_vl"], [parts(message)]) for message in row["messages"])
    assert apart == rendered(templated["qwen3_vl"], list(map(parts, row["messages"])))
    assert apart.startswith(sampled_text(templated["qwen3_vl"], record))


def parts(message):
    """As verl's MultiTurnSFTDataset divides a text at its placeholders."""
    pieces = message["content"].split("<image>")
    content = [{"type": "text", "text": pieces[0]}] if pieces[0] else []
    for piece in pieces[1:]:
        content += [{"type": "image"}, *([{"type": "text", "text": piece}] if piece else [])]
    return {"role": message["role"], "content": content}
