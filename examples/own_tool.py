"""Two tools of your own, called as an agent would call them: a function, and one that looks at the episode's images.

.venv/bin/python examples/own_tool.py
"""

import asyncio

from PIL import Image

from envs import Task, ToolEnv, ToolEpisode, tool


@tool
def convert(celsius: float) -> str:
    """Convert a temperature to degrees Fahrenheit."""
    return f"{celsius * 9 / 5 + 32:g} °F"


@tool(timeout_s=5)
def brightest(episode: ToolEpisode, image: int = 1) -> tuple[str, Image.Image]:
    """Find the brightest spot of an image.

    Args:
        image: Its number, from 1.
    """
    if not 1 <= image <= len(episode.images):
        raise ValueError(f"there are {len(episode.images)} images")  # the model sees this as an error
    grey = episode.images[image - 1].convert("L")
    place = max(range(grey.width * grey.height), key=grey.tobytes().__getitem__)
    y, x = divmod(place, grey.width)
    return f"x={x}, y={y}", episode.images[image - 1].crop((x - 8, y - 8, x + 8, y + 8))


async def main() -> None:
    picture = Image.new("RGB", (64, 64), "navy")
    picture.putpixel((40, 20), (255, 255, 255))
    task = Task("spot", "At which x is the brightest spot?", "40", "perception", "example", images=(picture,))
    env = ToolEnv([task], tools=[convert, brightest])
    await env.reset_async(seed=0)
    for schema in env.tool_schemas:
        print(schema["function"]["name"], schema["function"]["parameters"]["properties"])
    print((await env.call("convert", {"celsius": 21})).text)
    print((await env.call("convert", {"celsius": "warm"})).text)
    found = await env.call("brightest")
    print(found.status, found.text, [image.size for image in found.images])
    _, reward, terminated, _, info = await env.finish("40")
    print(f"reward {reward:.2f}, terminated {terminated}, parts {info['reward_parts']}")
    await env.close_async()


asyncio.run(main())
