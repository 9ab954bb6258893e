"""`toolwise bench sandbox`: the cost of isolation and persistence, through the public interface of `sandbox`.

Within a round the two sides of a figure are measured one right after the other, so that a slower machine slows both. Each gives one
value per round, and the figure is the median over the rounds.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles

import numpy as np
from PIL import Image

from benchmarks import memory
from benchmarks.figures import Figure
from benchmarks.peers import BLOCKING_REPL, JAIL_PER_CALL, PROCESS_PER_CALL, REPL, Peers, Repl
from envs.errors import InfrastructureError
from sandbox import Limits, Pool, Result, Session, Status, rootfs
from sandbox.pool import PRELOAD

_TURNS = 200  # a round; enough for a 99th percentile
_FRESH = 10  # our sessions a round, to one of each peer
_SESSIONS_PER_CORE = 16  # a round; the peer does one per core
_MEMORY_ROUNDS = 3  # memory does not vary with the load
_CELL, _PRINTED = "print(6 * 7)", "42"
_WIDTH, _HEIGHT = 4000, 3000
_JPEG_QUALITY = 90
_LOOK = f"print(image_1.getpixel(({_WIDTH - 1}, {_HEIGHT - 1})))"
_DECODE = """
from PIL import Image
with Image.open({path!r}) as picture:
    picture.load()
image_1 = picture.copy()
"""
_FIGURES = 10
_DRAW = f"""
import matplotlib.pyplot as plt
for number in range({_FIGURES}):
    figure, axes = plt.subplots()
    axes.plot(range(100), [number * x * x for x in range(100)], label="a line")
    axes.set_title(f"figure {{number}}")
    axes.legend()
"""
_RENDER = """
import numpy
for number in plt.get_fignums():
    figure = plt.figure(number)
    figure.canvas.draw()
    pixels = numpy.array(figure.canvas.buffer_rgba())
plt.close("all")
print(pixels.size)
"""


def measure(rounds: int, advance: Callable[[int, str], None]) -> list[Figure]:
    """All figures. Raises SandboxUnavailable if there is no sandbox, InfrastructureError if a measured operation fails."""
    root = rootfs.build()
    limits = Limits(wall_s=60.0, cpu_s=60.0)  # a loaded machine must not turn slowness into a timeout
    with tempfile.TemporaryDirectory(prefix="toolwise-bench-") as scratch:
        return asyncio.run(_measure(Peers(root, PRELOAD, limits, Path(scratch)), limits, Path(scratch), rounds, advance))


async def _measure(peers: Peers, limits: Limits, scratch: Path, rounds: int, advance: Callable[[int, str], None]) -> list[Figure]:
    figures = _figures()
    private, growth = figures["idle_session_memory"], figures["idle_session_memory_growth"]
    advance(0, "memory, then a round that is discarded")
    for _ in range(min(rounds, _MEMORY_ROUNDS)):
        await memory.add(private, growth, peers, limits)
    picture = scratch / "picture.jpg"
    _photograph().save(picture, quality=_JPEG_QUALITY)
    async with Pool(limits, preload=peers.imports) as pool:
        with peers.repl() as repl:
            bench = _Bench(pool, peers, repl, picture)
            # Discarded: everything is slower the first time, when files are read and fonts loaded.
            await bench.one_by_one(_figures())
            for number in range(rounds):
                await bench.one_round(figures)
                advance(
                    number + 1, f"a turn {figures['turn'].ours[-1]:.2f} ms, a session {figures['fresh_session'].ours[-1]:.1f} ms"
                )
    return list(figures.values())


def _figures() -> dict[str, Figure]:
    figures = (
        Figure("turn", "ms", REPL),
        Figure("turn_p99", "ms", REPL),
        Figure("turn_blocking", "ms", BLOCKING_REPL),
        Figure("fresh_session", "ms", JAIL_PER_CALL),
        Figure("fresh_session_unjailed", "ms", PROCESS_PER_CALL),
        Figure("sessions_per_second", "1/s", JAIL_PER_CALL),
        Figure("idle_session_memory", "MB", "an interpreter, unjailed"),
        Figure("idle_session_memory_growth", "MB", "one more interpreter, unjailed"),
        Figure("image_in_12_megapixels", "ms", "JPEG decode and memory copy, unjailed"),
        Figure("figures_out_10", "ms", "the same figures drawn to pixels, unjailed"),
    )
    return {figure.name: figure for figure in figures}


class _Bench:
    """The timed measurements. Each adds one value for each side to its figures."""

    def __init__(self, pool: Pool, peers: Peers, repl: Repl, picture: Path) -> None:
        self._pool, self._peers, self._repl = pool, peers, repl
        self._decode = _DECODE.format(path=str(picture))
        with Image.open(picture) as opened:
            opened.load()
            self._picture = opened.copy()

    async def one_round(self, figures: dict[str, Figure]) -> None:
        await self.one_by_one(figures)
        await self._throughput(figures["sessions_per_second"])

    async def one_by_one(self, figures: dict[str, Figure]) -> None:
        """A round without the measurement that keeps all cores busy."""
        async with self._pool.session() as session:
            await self._turns(session, figures)
            await self._figures_out(session, figures["figures_out_10"])
        await self._fresh(figures)
        await self._image_in(figures["image_in_12_megapixels"])

    async def _turns(self, session: Session, figures: dict[str, Figure]) -> None:
        ours, reference, blocking = [], [], []
        for _ in range(_TURNS):
            started = time.perf_counter()
            result = await session.run(_CELL)
            ours.append(_ms_since(started))
            _check(result, _PRINTED)
        for _ in range(_TURNS):
            started = time.perf_counter()
            await self._repl.run_async(_CELL)
            reference.append(_ms_since(started))
        for _ in range(_TURNS):
            started = time.perf_counter()
            self._repl.run(_CELL)
            blocking.append(_ms_since(started))
        figures["turn"].add(median(ours), median(reference))
        figures["turn_p99"].add(quantiles(ours, n=100)[98], quantiles(reference, n=100)[98])
        figures["turn_blocking"].add(median(ours), median(blocking))

    async def _fresh(self, figures: dict[str, Figure]) -> None:
        ours = []
        for _ in range(_FRESH):
            started = time.perf_counter()
            async with self._pool.session() as session:
                result = await session.run(_CELL)
                ours.append(_ms_since(started))
                _check(result, _PRINTED)
        figures["fresh_session"].add(median(ours), 1e3 * self._peers.in_new_jail(_CELL)[1])
        figures["fresh_session_unjailed"].add(median(ours), 1e3 * self._peers.in_new_process(_CELL)[1])

    async def _throughput(self, figure: Figure) -> None:
        cores = len(os.sched_getaffinity(0))

        async def work() -> None:
            for _ in range(_SESSIONS_PER_CORE):
                async with self._pool.session() as session:
                    _check(await session.run(_CELL), _PRINTED)

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(cores)))
        ours = cores * _SESSIONS_PER_CORE / (time.perf_counter() - started)
        started = time.perf_counter()
        with ThreadPoolExecutor(cores) as threads:
            list(threads.map(self._peers.in_new_jail, [_CELL] * cores))
        figure.add(ours, cores / (time.perf_counter() - started))

    async def _image_in(self, figure: Figure) -> None:
        started = time.perf_counter()
        async with self._pool.session([self._picture]) as session:
            result = await session.run(_LOOK)
            ours = _ms_since(started)
        started = time.perf_counter()
        printed = self._repl.run(self._decode + _LOOK)
        figure.add(ours, _ms_since(started))
        _check(result, printed.strip())
        self._repl.run("del picture, image_1")

    async def _figures_out(self, session: Session, figure: Figure) -> None:
        _check(await session.run(_DRAW + "plt.show()"), images=_FIGURES)  # a session's first text loads its fonts
        started = time.perf_counter()
        result = await session.run(_DRAW + "plt.show()")
        ours = _ms_since(started)
        _check(result, images=_FIGURES)
        started = time.perf_counter()
        self._repl.run(_DRAW + _RENDER)
        figure.add(ours, _ms_since(started))


def _check(result: Result, printed: str = "", images: int = 0) -> None:
    if result.status is not Status.OK or result.stdout.strip() != printed or len(result.images) != images:
        stderr = " ".join(result.stderr.split())
        raise InfrastructureError(
            f"a session returned {result.status}, {result.stdout!r} and {len(result.images)} images: {stderr}"
        )


def _ms_since(started: float) -> float:
    return 1e3 * (time.perf_counter() - started)


def _photograph() -> Image.Image:
    """A picture that takes about as long to decode as a camera's: smooth colours with a little noise."""
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8)).resize(
        (_WIDTH, _HEIGHT), Image.Resampling.BICUBIC
    )
    noise = random.normal(0, 4, (_HEIGHT, _WIDTH, 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8))
