"""The sandbox without models: untrusted Python in a session that keeps its variables.

.venv/bin/python examples/sandbox_alone.py
"""

import asyncio

from PIL import Image, ImageDraw

from sandbox import Limits, Pool

CELLS = (
    "import numpy as np\nvalues = np.arange(10) ** 2",
    "print(values.sum())",  # variables persist
    "image_1.crop((0, 0, 32, 32)).resize((64, 64))",  # images go in and come back
    "1 / 0",
    "while True: pass",  # interrupted; the variables stay
    "len(values)",
    "open('/etc/passwd')",  # there is no host file
    "import socket; socket.create_connection(('127.0.0.1', 22))",  # and no network
    "bytearray(1 << 30)",
)


async def main() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).ellipse((8, 8, 24, 24), "crimson")
    limits = Limits(memory_bytes=256 << 20)
    async with Pool(limits, size=2) as pool, pool.session(images=[picture]) as session:
        for code in CELLS:
            result = await session.run(code, timeout_s=1)
            lines = (result.stdout or result.stderr).strip().splitlines()
            shown = [image.size for image in result.images] or (lines[-1] if lines else "")
            print(f"{result.status:10} {code.splitlines()[-1]!r:62} {shown}")


asyncio.run(main())
