"""A protocol of your own: what a turn of the model means, here in lines `Action: name {json}` and `Answer: text`.

.venv/bin/python examples/own_protocol.py
PYTHONPATH=examples .venv/bin/toolwise collect policy=expert +options.protocol=own_protocol:Lines out=runs/lines
"""

import json
import re

from envs import Protocol, Task, ToolEnv
from envs.protocols import Answer, Call, Calls, Malformed

REMEDY = 'end your turn with a line "Action: tool {…}" or "Answer: …"'


class Lines(Protocol):
    """Thoughts, then one line that acts."""

    name = "lines"

    def parse(self, text):
        found = re.search(r"^(Action|Answer): *(.*)\Z", text.strip(), re.MULTILINE | re.DOTALL)
        if found is None:
            return Malformed(REMEDY)
        if found[1] == "Answer":
            return Answer(found[2].strip())
        name, _, arguments = found[2].partition(" ")
        try:
            return Calls((Call(name, dict(json.loads(arguments or "{}"))),))
        except (ValueError, TypeError):
            return Malformed(f"the arguments are no JSON object: {REMEDY}")

    def is_well_formed(self, text):
        return not isinstance(self.parse(text), Malformed)

    def write(self, action):
        if isinstance(action, Answer):
            return f"Answer: {action.text}"
        (call,) = action.calls
        return f"Action: {call.name} {json.dumps(call.arguments)}"

    def instructions(self, tools):
        listed = [f"{tool.schema['function']['name']}: {json.dumps(tool.schema['function']['parameters'])}" for tool in tools]
        return "\n".join(["Think, then " + REMEDY + ". The tools and their arguments:", *listed])


if __name__ == "__main__":
    env = ToolEnv([Task("t", "What is 6 times 7?", "42", "reasoning", "example")], protocol=Lines, tools=["code"])
    env.reset(seed=0)
    print(env.instructions())
    for turn in ("Let me see.", 'I compute.\nAction: code {"code": "6 * 7"}', "Answer: 42"):
        observation, reward, terminated, *_ = env.step(turn)
        print(repr(turn), "→", repr(observation["text"]))
    print(f"reward {reward:.2f}, terminated {terminated}")
    env.close()
