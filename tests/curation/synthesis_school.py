"""A school for the tests of synthesis: sums in a file, one tool, and a teacher that does as a question's last word says.

Run as a program, it forks a synthesis for each line of settings that it is sent: everything is imported once, and a test can kill
many.
"""

import json
import os
import re
import sys
from functools import cache
from pathlib import Path

from openai_server import asking
from PIL import Image
from rollout_fakes import Bytes

from configs import compose
from curation.synthesis.run import Synthesis
from curation.synthesis.settings import SynthesizeConfig
from envs import tool
from rollout.engines.endpoint import Endpoint
from rollout.tokens.chat_format import ChatFormat

CHAT = ChatFormat(Bytes())
USAGE = {"prompt_tokens": 100, "completion_tokens": 10}


@tool
def add(a: int, b: int):
    """Add two numbers."""
    return str(a + b)


@tool
def look(corner: str):
    """Look closer."""
    return f"the {corner} corner <answer>", Image.new("RGB", (56, 84), "red")


def write_sums(path: Path, *words: str, **columns):
    """A file of sums, one for each word; `columns` are lists of further values."""
    rows = [
        {"question": f"What is {number} + 5? ({word})", "answer": str(number + 5)}
        | {name: values[number] for name, values in columns.items()}
        for number, word in enumerate(words)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@cache
def settings_of(place: Path, *settings: str, **teachers: str) -> SynthesizeConfig:
    """The settings for the sums in `place`/sums.jsonl and teachers behind these addresses; `settings` may give more."""
    given = [f"+teachers.{name}.url={url}" for name, url in teachers.items()]
    given += [f"+teachers.{name}.model=m-{name}" for name in teachers]
    given += [f"tasks={place / 'sums.jsonl'}", f"out={place / 'out'}", "+options.tools=[synthesis_school:add]"]
    given += ["rollout.sandboxes_per_worker=0", "rollout.episode.max_tokens=20000", "rollout.episode.max_action_tokens=2000"]
    return compose("synthesize", SynthesizeConfig, [*given, *settings])


def school(place: Path, *settings: str, chat: ChatFormat = CHAT, **teachers: str) -> Synthesis:
    """A synthesis with these settings; `chat` is the student's."""
    return Synthesis(settings_of(place, *settings, **teachers), chat, Endpoint.of)


def rows(place: Path, name: str = "demonstrations"):
    """The rows of a file that a synthesis wrote."""
    return [json.loads(line) for line in (place / "out" / f"{name}.jsonl").read_text().splitlines()]


def sum_of(body):
    """The numbers of a request's sum, its last word, and how many calls have been answered."""
    text = json.dumps(body["messages"])
    number, word = re.search(r"What is (\d+) \+ 5\? \((\w+)\)", text).groups()
    return int(number), word, sum("tool_calls" in message or "<tool_call>" in str(message["content"]) for message in spoken(body))


def spoken(body):
    return [message for message in body["messages"] if message["role"] == "assistant"]


def call(body, **arguments):
    """A call of the tool, in the API's form if the tools were offered, else in the text that both protocols share."""
    if "tools" in body:
        return asking(("add", arguments), text="I add.")
    return f'<think>I add.</think><tool_call>{{"name": "add", "arguments": {json.dumps(arguments)}}}</tool_call>'


def teach(body):
    """The reply of a teacher."""
    number, word, called = sum_of(body)
    if word == "refused":
        return 400, {"message": "filtered by the content management policy", "code": "content_filter"}
    if word == "chatty":
        return call(body, a=number, b=called)
    if not called and word not in ("wrong", "malformed", "direct"):
        reply = call(body, a=number, b="x" if word == "failing" else 5)
    elif word == "malformed" and not spoken(body):
        reply = "<answer>" if "tools" not in body else "<code>"
    else:
        reply = f"<answer>{number + (4 if word == 'wrong' else 5)}</answer>"
    return (reply if isinstance(reply, dict) else {"content": reply}) | {"usage": USAGE}


def main() -> None:
    """Fork a synthesis for each line; say its process id, then how it ended."""
    for line in sys.stdin:
        place, settings, teachers = json.loads(line)
        settings_of(Path(place), *settings, **teachers)
        pid = os.fork()
        if not pid:
            try:
                school(Path(place), *settings, **teachers).run()
            except KeyboardInterrupt:
                os._exit(130)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
