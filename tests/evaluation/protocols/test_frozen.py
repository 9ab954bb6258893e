"""What `tasks=bench:NAME data=FILE` fixes: the settings are the benchmark's unless the user changes them, and then the name says
so; the file's hash and the number of its items are compared with what is published; the record holds all of it."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from configs import compose, compose_again
from configs.evaluating import evaluation_settings
from console import progress
from envs.errors import UsageError
from evaluation.comparison import compare
from evaluation.evaluate import evaluate
from evaluation.intervals import wilson_interval
from evaluation.protocols import benchmark, examine, freeze, names, question_clusters
from evaluation.report import markdown
from evaluation.settings import EvaluateConfig
from starter.policies import find_policy
from toolwise import evaluate as command

PAGE = Path(__file__).parents[3] / "docs/benchmarks.md"
GLOVE = "What is the glove made of?"


@pytest.fixture
def vstar(tmp_path):
    """Three rows in the form of VLMEvalKit's table, whose picture lies beside it."""
    Image.new("RGB", (40, 30)).save(tmp_path / "glove.png")
    rows = [f"{index}\tglove.png\t{GLOVE} ({index})\trubber\tcotton\tA\tdirect" for index in range(3)]
    path = tmp_path / "VStarBench.tsv"
    path.write_text("\n".join(["index\timage\tquestion\tA\tB\tanswer\tcategory", *rows]) + "\n")
    return path


def frozen(*settings):
    return freeze(compose("evaluate", EvaluateConfig, settings), settings)


def published(monkeypatch, path, **changes):
    """The benchmark as if `path` were its published file."""
    from dataclasses import replace

    from evaluation.protocols import frozen as module

    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    known = replace(benchmark("vstar"), **{"items": 3, "md5": {path.name: md5}} | changes)
    monkeypatch.setattr(module, "benchmark", lambda name: known)


@pytest.mark.parametrize("name", names())
def test_every_benchmark_is_complete(name):
    found = benchmark(name)
    assert found.items > 0 and found.tools and found.source and found.licence and found.differs and found.prompt_source
    assert (found.judge is not None) == (found.scoring == "judge" or found.form == "visualtoolbench")


@pytest.mark.parametrize("name", names())
def test_the_page_has_its_rows(name):
    found, page = benchmark(name), PAGE.read_text().splitlines()
    fixed = [f"{found.items:,}", ", ".join(found.tools), found.scorer, found.judge or "–", f"{found.max_pixels:,}"]
    known = [f"{found.source}; {found.licence}", found.prompt_source, found.differs]
    assert [line for line in page if line.startswith(f"| `bench:{name}` |")] == [
        f"| {' | '.join([f'`bench:{name}`', *cells])} |" for cells in (fixed, known)
    ]


def test_the_settings_are_the_benchmarks(vstar):
    config = frozen("tasks=bench:vstar", f"data={vstar}")
    assert (config.temperature, config.group_size, config.options["tools"]) == (0.0, 1, ["code"])
    assert config.rollout.episode.max_pixels == 16384 * 28 * 28
    assert config.rollout.engine.max_model_len >= config.rollout.episode.max_tokens
    assert examine(config).name == "bench:vstar"


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("temperature=0.7", "temperature"),
        ("group_size=4", "group_size"),
        ("episodes=2", "episodes"),
        ("+options.tools=[]", "tools"),
        ("+options.max_turns=3", "max_turns"),
        ("+options.prompt='{question} Think.'", "prompt"),
        ("+options.malformed=skip", "malformed"),
        ("rollout.episode.max_pixels=1003520", "max_pixels"),
        ("rollout.episode.overlong=skip", "overlong"),
        ("rollout.episode={max_pixels: 1003520}", "max_pixels"),
        ("+options={max_turns: 3}", "max_turns"),
    ],
)
def test_a_changed_setting_is_in_the_name(vstar, setting, name):
    examined = examine(frozen("tasks=bench:vstar", f"data={vstar}", setting))
    assert examined.name == f"bench:vstar (changed: {name})"
    assert list(examined.record["changed"]) == [name]
    assert any(line.startswith(f"{examined.name}: {name} is ") for line in examined.warnings)


@pytest.mark.parametrize(("setting", "name"), [("extra={top_p: 0.5}", "extra"), ("omit=[temperature, seed]", "omit")])
def test_another_request_to_the_endpoint_is_a_change(vstar, setting, name):
    settings = ["tasks=bench:vstar", f"data={vstar}", "policy=http://127.0.0.1:1/v1", f"rollout.endpoint.{setting}"]
    assert examine(frozen(*settings)).name == f"bench:vstar (changed: endpoint.{name})"


def test_a_setting_of_the_referee_is_a_change(vstar):
    examined = examine(frozen("tasks=bench:vstar", f"data={vstar}", "temperature=0.5"))
    without = examined.with_changes({"tools": [], "given_results": "of all tools"})
    assert without.name == "bench:vstar (changed: temperature, tools, given_results)"
    assert without.record["changed"]["tools"] == {"is": [], "fixed": ["code"]}
    assert examined.with_changes({}) is examined and list(examined.record["changed"]) == ["temperature"]


def test_a_resumed_evaluation_does_not_mix_two_files(vstar):
    settings = ["tasks=bench:vstar", f"data={vstar}", "resume=true"]
    begun = frozen(*settings)
    assert examine(begun).name == "bench:vstar"
    vstar.write_text(vstar.read_text().replace("glove", "scarf"))
    with pytest.raises(UsageError, match="was begun with another file"):
        examine(begun)


def test_what_a_run_was_trained_with_does_not_change_a_benchmark(vstar, tmp_path):
    """Of a run, how its policy writes and its machine are taken over, neither its tasks' options nor what the benchmark fixes."""
    (tmp_path / "checkpoints" / "step_1" / "policy").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_1" / "policy" / "config.json").write_text("{}")
    (tmp_path / "config.yaml").write_text(
        "policy: starter\nstages: [rl]\ntasks: toolwise/Mixture-v0\n"
        "options: {difficulty: 2, protocol: hermes, tools: [code, text_search], max_turns: 4}\n"
        "task_options: {test: {split: test}}\nrollout: {workers: 3, episode: {max_tokens: 999, max_turns: 4}}\n"
    )
    overrides = [f"run={tmp_path}", "referee=true", "tasks=bench:vstar", f"data={vstar}"]
    config = freeze(evaluation_settings(overrides), overrides)
    assert examine(config).name == "bench:vstar"
    assert (config.options["protocol"], config.options["tools"], config.rollout.workers) == ("hermes", ["code"], 3)
    assert config.episodes >= 3 and config.checkpoints == ["base", "step_1"]


@pytest.mark.parametrize("setting", ["seed=5", "+options.protocol=hermes", "rollout.workers=2", "policy=random", "ablate=tools"])
def test_what_belongs_to_the_policy_or_the_machine_changes_nothing(vstar, setting):
    assert examine(frozen("tasks=bench:vstar", f"data={vstar}", setting)).name == "bench:vstar"


def test_a_file_that_is_not_the_published_one_is_a_line(vstar):
    examined = examine(frozen("tasks=bench:vstar", f"data={vstar}"))
    count, hashes = examined.warnings
    assert count == "bench:vstar: VStarBench.tsv has 3 items, and 191 are published"
    assert hashlib.md5(vstar.read_bytes()).hexdigest() in hashes and benchmark("vstar").md5["VStarBench.tsv"] in hashes


@pytest.mark.parametrize(
    ("column", "line"), [("image", "3 items have no picture"), ("A", "3 items have no options"), ("B", "3 items have no options")]
)
def test_items_that_lack_what_the_benchmark_shows_are_a_line(vstar, column, line):
    header, *rows = (row.split("\t") for row in vstar.read_text().splitlines())
    dropped = [header.index(name) for name in (("A", "B") if column in "AB" else (column,))]
    kept = ["\t".join(cell for place, cell in enumerate(row) if place not in dropped) for row in (header, *rows)]
    vstar.write_text("\n".join(kept) + "\n")
    assert f"bench:vstar: VStarBench.tsv: {line}" in examine(frozen("tasks=bench:vstar", f"data={vstar}")).warnings


def test_the_published_file_is_no_line(vstar, monkeypatch):
    published(monkeypatch, vstar)
    assert examine(frozen("tasks=bench:vstar", f"data={vstar}")).warnings == ()


def test_a_file_without_a_published_hash_is_named_by_its_own(vstar, monkeypatch):
    published(monkeypatch, vstar, md5={"test_questions.jsonl": "0" * 32})
    (line,) = examine(frozen("tasks=bench:vstar", f"data={vstar}")).warnings
    assert line.endswith(
        f"no published hash of such a file is known; yours is sha256 {hashlib.sha256(vstar.read_bytes()).hexdigest()}"
    )


def test_a_change_of_the_file_is_a_change_of_its_hash(vstar):
    config = frozen("tasks=bench:vstar", f"data={vstar}")
    before = examine(config).record["sha256"]
    vstar.write_text(vstar.read_text().replace("glove", "scarf"))
    assert examine(config).record["sha256"] != before


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (["tasks=bench:vstar"], "write data=FILE"),
        (["tasks=bench:vstar", "data=VStarBench.xml"], "write a file that ends in"),
        (["tasks=bench:vstra", "data=x.tsv"], "did you mean tasks=bench:vstar"),
        (["tasks=bench:realx", "data=x.parquet"], "scored by a judge: write .options.judge="),
        (["tasks=bench:visualtoolbench", "data=x.parquet", "+options.judge={url: u, model: gpt-4o}"], "text_search: write"),
        (["data=x.tsv"], "write tasks=bench:NAME"),
    ],
)
def test_what_is_missing_is_said(settings, remedy):
    with pytest.raises(UsageError, match=remedy):
        frozen(*settings)


@pytest.mark.parametrize(("model", "name"), [("Qwen/Qwen2.5-72B-Instruct", ""), ("gpt-4o-mini", " (changed: judge)")])
def test_another_judge_is_a_change(tmp_path, model, name):
    path = tmp_path / "val.jsonl"
    path.write_text(json.dumps({"question": "Which?", "answer": "this"}) + "\n")
    settings = ["tasks=bench:charxiv", f"data={path}", f"+options.judge={{url: http://127.0.0.1:1/v1, model: {model}}}"]
    assert examine(frozen(*settings)).name == f"bench:charxiv{name}"


def test_a_resumed_evaluation_keeps_what_it_was_begun_with(vstar, tmp_path):
    from omegaconf import OmegaConf

    begun = frozen("tasks=bench:vstar", f"data={vstar}", "temperature=0.5")
    saved = tmp_path / "config.yaml"
    saved.write_text(OmegaConf.to_yaml(OmegaConf.structured(begun)))
    for overrides in (["resume=true"], ["resume=true", "tasks=bench:vstar", f"data={vstar}"]):
        assert freeze(compose_again(saved, EvaluateConfig, overrides), overrides) == begun.__class__(
            **vars(begun) | {"resume": True}
        )


@pytest.mark.parametrize(
    ("tasks", "remedy"), [("bench:", "names no benchmark"), ("bench:hrbench", "did you mean tasks=bench:hrbench")]
)
def test_the_command_lists_all_names_and_the_nearest(tasks, remedy, tmp_path, capsys):
    with pytest.raises(UsageError, match=remedy):
        command([f"tasks={tasks}", "data=x.tsv", f"out={tmp_path}"])
    assert [line.partition(" ")[0] for line in capsys.readouterr().out.splitlines()] == [f"bench:{name}:" for name in names()]


def test_the_record_holds_the_protocol(vstar, tmp_path, serve, cluster):
    """An endpoint that is always right, through the real fleet, in each of the referee's settings."""
    server = serve("<answer>A</answer>")
    out = tmp_path / "run"
    config = frozen(
        *("tasks=bench:vstar", f"data={vstar}", f"out={out}", f"policy={server.url}", "policy_model=m", "temperature=0.7"),
        "referee=true",
    )
    evaluation = evaluate(config, find_policy("starter"), progress)
    record, *others = json.loads((out / "evaluation.json").read_text())
    assert [other["tasks"].removeprefix("bench:vstar (changed: temperature, ") for other in others] == [
        "tools)",
        "tool_outputs)",
        "tool_outputs)",
        "tools, given_results)",
    ]
    assert record["referee"]["difference"]["value"] == 0.0
    assert (record["accuracy"], record["episodes"], record["tasks"]) == (1.0, 3, "bench:vstar (changed: temperature)")
    assert record["protocol"]["fixed"]["temperature"] == 0.0
    assert record["protocol"]["items"] == 3 and record["protocol"]["items_published"] == 191
    assert record["protocol"]["sha256"] == hashlib.sha256(vstar.read_bytes()).hexdigest()
    assert any("191 are published" in note for note in record["notes"])
    assert "bench:vstar (changed: temperature)" in markdown(evaluation.records)
    assert all("Please select the correct answer" in json.dumps(request["messages"]) for request in server.requests)


def test_rows_that_ask_the_same_question_are_one_to_an_interval_and_to_a_comparison(tmp_path, serve, cluster):
    """HR-Bench's form: the same question about two pictures, in four orders of its options; the endpoint always says A."""
    pictures = []
    for colour in ("red", "blue"):
        Image.new("RGB", (40, 30), colour).save(tmp_path / "picture.png")
        pictures.append(base64.b64encode((tmp_path / "picture.png").read_bytes()).decode())
    rows = [(4 * place + turn, picture if not turn else 4 * place) for place, picture in enumerate(pictures) for turn in range(4)]
    text = "".join(f"{index}\t{image}\t{GLOVE}\ta\tb\tc\td\t{'ABCD'[index % 4]}\tsingle\n" for index, image in rows)
    (tmp_path / "hr.tsv").write_text("index\timage\tquestion\tA\tB\tC\tD\tanswer\tcategory\n" + text)
    out = tmp_path / "run"
    config = frozen(
        *("tasks=bench:hrbench4k", f"data={tmp_path}/hr.tsv", f"out={out}", f"policy={serve('<answer>A</answer>').url}"),
        *("policy_model=m", "ablate=outputs"),
    )
    record, *_ = evaluate(config, find_policy("starter"), progress).records
    assert (record.episodes, record.settings["clusters"], record.ci95) == (8, 2, wilson_interval(0.5, 2))
    assert (compare(str(out), str(out)).items, compare(str(out), str(out)).clusters) == (8, 2)
    assert any("items of the same question and images ask one question" in line for line in examine(config).lines)


def test_a_file_that_does_not_say_which_rows_ask_the_same_is_named(tmp_path):
    (tmp_path / "verse.jsonl").write_text(json.dumps({"question": "How long?", "answer": "C"}) + "\n")
    judge = "+options.judge={url: http://localhost:8000/v1, model: Qwen/Qwen2.5-72B-Instruct}"
    config = frozen("tasks=bench:mathverse", f"data={tmp_path}/verse.jsonl", judge)
    assert any("has no column problem_index: the interval" in line for line in examine(config).warnings)
    assert question_clusters(config) == {}
