"""Protocols of a user's own, each in a few lines."""

import re

from envs import Protocol
from envs.protocols import Answer, Call, Calls, Malformed


class Lines(Protocol):
    """`CALL name text`, or `ANSWER text`."""

    name = "lines"
    stop = ("\n",)

    def __init__(self, loud=False):
        self.loud = loud

    def parse(self, text):
        if match := re.match(r"ANSWER (.*)", text):
            return Answer(match[1])
        if match := re.match(r"CALL (\w+) ?(.*)", text):
            return Calls((Call(match[1], {"text": match[2]}),))
        return Malformed("write CALL name text, or ANSWER text")

    def is_well_formed(self, text):
        return not isinstance(self.parse(text), Malformed)

    def write(self, action):
        return f"ANSWER {action.text}" if isinstance(action, Answer) else f"CALL {action.calls[0].name}"

    def instructions(self, tools):
        return "\n".join(tool.schema["function"]["name"] for tool in tools)


class Unwritten(Protocol):
    """It has no methods yet."""

    name = "unwritten"


READY = Lines(loud=True)
number = 5
