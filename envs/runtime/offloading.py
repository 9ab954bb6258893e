"""Work that would hold up an event loop: reading files, decoding and scaling pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image, ImageFile

from envs.runtime.loops import PerLoop
from envs.runtime.threads import Threads

QUICK_PIXELS = 1 << 17
"""To encode or to scale more pixels than this takes longer than an event loop may be held up."""

# More than there are processors: some may wait for a file system that does not answer, until their episode is given up.
_AT_A_TIME = 32
_THREADS = PerLoop(lambda: Threads(_AT_A_TIME))


async def on_thread[T](function: Callable[..., T], *arguments: Any) -> T:
    """Await `function(*arguments)`, which runs on a thread."""
    return await _THREADS.get().run(function, *arguments)


async def converted[T](convert: Callable[[Image.Image], T], images: Sequence[Image.Image]) -> tuple[T, ...]:
    """What `convert` makes of each picture: on a thread, unless all are small and none has yet to be read from a file."""
    pixels = sum(image.width * image.height for image in images)
    if pixels <= QUICK_PIXELS and not any(isinstance(image, ImageFile.ImageFile) for image in images):
        return tuple(map(convert, images))
    return await on_thread(lambda: tuple(map(convert, images)))
