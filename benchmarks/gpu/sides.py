"""The two sides of a figure, each a process of its own, one after the other: together they would share the GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.gpu import end, environment, last_line
from benchmarks.gpu.part import Job

_ANSWER = "measured: "


def run_side(job: Job, module: str, side: str, share: float, *asked: str) -> Any:
    """What `python -m module SIDE PLACE ROUNDS SECONDS …` says, in `share` of the time that is left.

    Raises RuntimeError, in one line, if it says nothing.
    """
    name, seconds = f"{module.rpartition('.')[2]}_{'_'.join((*asked, side))}", share * job.left_s
    command = [sys.executable, "-m", module, side, str(job.place), str(job.rounds), str(seconds), *asked]
    log, late = job.place / f"{name}.log", ""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment())
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            late = f"did not end within {seconds:.0f} s; its last line: "
        finally:
            end(process)
    answers = [line.removeprefix(_ANSWER) for line in log.read_text().splitlines() if line.startswith(_ANSWER)]
    if not answers:
        raise RuntimeError(f"{side}: {late}{last_line(log)}")
    return json.loads(answers[-1])


def answer(found: Any) -> None:
    """Say what a side has found."""
    print(f"{_ANSWER}{json.dumps(found)}", flush=True)
