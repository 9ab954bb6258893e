"""Inspect itself reads the logs: nothing in them is lost on it, and what it writes of them again is equal, sample by sample.

`inspect_ai` wants an older fsspec than verl's datasets, and so has an environment of its own, `.tools/inspect`, which `make
test` makes.
"""

import subprocess
from pathlib import Path

import pytest
from interop_runs import hostile

from envs.runtime.progress import silent
from interop.exporting.export import Source, export
from interop.settings import ExportConfig

INSPECT = Path(__file__).parents[2] / ".tools/inspect/bin/python"
READ = r"""
import json, sys, zipfile
from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries, write_eval_log

path, again = sys.argv[1:]

def lost(ours, theirs, place):
    "The places at which Inspect has not what we wrote."
    if isinstance(ours, dict) and isinstance(theirs, dict):
        known = {name: value for name, value in ours.items() if value is not None}
        return [one for name, value in known.items() for one in lost(value, theirs.get(name), f"{place}/{name}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [one for number, pair in enumerate(zip(ours, theirs)) for one in lost(*pair, f"{place}/{number}")]
    return [] if ours == theirs else [place]

def resolved(path):
    samples = read_eval_log(path, resolve_attachments="full").samples
    return {(one.id, one.epoch): one.model_dump(exclude={"attachments", "events_data"}) for one in samples}

log = read_eval_log(path)
with zipfile.ZipFile(path) as archive:
    for one in log.samples:
        ours = json.loads(archive.read(f"samples/{one.id}_epoch_{one.epoch}.json"))
        assert not lost(ours, json.loads(one.model_dump_json(exclude_none=True)), ""), one.id
    header = json.loads(log.model_dump_json(exclude_none=True, exclude={"samples"}))
    assert not lost(json.loads(archive.read("header.json")), header, "header")
own = {(one.id, one.epoch): one.summary() for one in log.samples}
assert {(one.id, one.epoch): one for one in read_eval_log_sample_summaries(path)} == own
write_eval_log(log, again)
assert resolved(again) == resolved(path)
print(len(log.samples))
"""


@pytest.mark.skipif(not INSPECT.exists(), reason=f"there is no {INSPECT}: `make test` makes it")
def test_inspect_reads_every_sample(chat, tmp_path):
    config = ExportConfig(run=str(hostile(chat, tmp_path / "run")), out=str(tmp_path / "out"), policy="starter")
    export(Source(config), config, silent)
    result = subprocess.run(
        [INSPECT, "-c", READ, str(tmp_path / "out/rl_000003.eval"), str(tmp_path / "again.eval")],
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "8", result.stderr[-2000:]
