"""`toolwise bench`: both sides are measured in one run and all figures are written. No test asserts how fast they are."""

import json
import math
import re

import pytest
from command_line import ROOT, assert_one_line, run, run_here

import benchmarks.sandbox
import toolwise
from benchmarks import BENCHMARKS, BenchConfig, Figure, image_search, table, text_search, view
from configs import compose
from sandbox import SandboxUnavailable

CONTRACT = {"turn", "turn_p99", "fresh_session", "sessions_per_second", "idle_session_memory"}


def test_one_round_writes_every_figure_with_both_sides(tmp_path, monkeypatch, capsys):
    """With fewer imports on both sides: each interpreter of a peer takes seconds for all of them."""
    monkeypatch.setattr(benchmarks.sandbox, "PRELOAD", ("PIL.Image",))
    out = tmp_path / "new/sandbox.json"
    try:
        assert toolwise.bench(["sandbox", "rounds=1", f"out={out}"]) == 0
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))
    printed = capsys.readouterr().out
    assert str(out) in printed.replace("\n", "")
    assert "next:" in printed.splitlines()[-1]
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    records = json.loads(out.read_text())
    named = {record["figure"] for record in records}
    assert named >= CONTRACT | {"fresh_session_unjailed", "image_in_12_megapixels", "figures_out_10"}
    assert len(named) == len(records)
    for record in records:
        assert list(record) == ["figure", "ours", "reference", "of", "ratio", "unit"]
        assert all(math.isfinite(record[name]) and record[name] > 0 for name in ("ours", "reference", "ratio"))
        assert record["ratio"] == record["ours"] / record["reference"]
        assert record["figure"] in printed
        assert record["figure"] in (ROOT / "benchmarks/README.md").read_text()


@pytest.mark.parametrize(
    ("measure", "size", "figures"),
    [
        pytest.param(
            text_search.measure,
            4000,
            ["text_build", "text_query_p50", "text_query_p99", "text_memory"],
            marks=pytest.mark.slow,  # five processes, of which three compile bm25s's loops
        ),
        pytest.param(
            image_search.measure,
            300,
            ["image_query_p50", "image_top5"],
            marks=pytest.mark.slow,  # the peer compares with every picture
        ),
        (view.measure, 400, ["first_view", "filter", "filter_worst", "search"]),
    ],
)
def test_a_small_benchmark_measures_both_sides(measure, size, figures):
    told = []
    records = [figure.record() for figure in measure(1, lambda done, text: told.append((done, text)), size)]
    assert [record["figure"] for record in records][: len(figures)] == figures
    assert all(math.isfinite(record[name]) and record[name] > 0 for record in records for name in ("ours", "reference"))
    assert all(record["figure"] in (ROOT / "benchmarks/README.md").read_text() for record in records)
    assert told[-1][0] == 1


def test_a_figure_is_the_median_over_the_rounds():
    figure = Figure("turn", "ms", "a peer")
    for ours, reference in ((1.0, 4.0), (9.0, 5.0), (2.0, 90.0)):
        figure.add(ours, reference)
    record = figure.record()
    assert (record["ours"], record["reference"], record["ratio"]) == (2.0, 5.0, 0.4)
    assert table([record]).row_count == 1


def test_a_reference_of_0_has_no_ratio_and_takes_no_other_figure_along():
    figure = Figure("sight", "nats", "the sampler")
    figure.add(0.5, 0.0)
    assert figure.record()["ratio"] is None
    assert table([figure.record()]).row_count == 1


@pytest.mark.parametrize("arguments", [["sandbx"], [], ["out=there.json"]])
def test_a_benchmark_that_is_not_there_is_answered_with_those_that_are(arguments):
    assert_one_line(run_here("bench", *arguments), "sandbox")


def test_no_rounds_are_refused(tmp_path):
    assert_one_line(run("bench", "sandbox", "rounds=0", f"out={tmp_path}/new/b.json"), "rounds=0", "at least 1")
    assert not (tmp_path / "new").exists()


def test_a_directory_is_not_a_file_to_write(tmp_path):
    assert_one_line(run_here("bench", "sandbox", f"out={tmp_path}"), str(tmp_path), "out=")


def test_every_documented_benchmark_exists_and_composes():
    texts = "".join((ROOT / name).read_text() for name in ("README.md", "benchmarks/README.md"))
    documented = re.findall(r"toolwise bench (\w+)((?: [\w.]+=[^\s`]+)*)", texts)
    assert documented
    for name, overrides in documented:
        assert name in BENCHMARKS
        compose("bench", BenchConfig, overrides.split())
