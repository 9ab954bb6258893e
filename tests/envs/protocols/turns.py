"""Turns of a model, as the tests of all protocols need them."""

import json

from envs.protocols import Call, Calls

FENCE = "```"


def code(source):
    """A turn of the default protocol that runs Python."""
    return f"<code>\n{FENCE}python\n{source}\n{FENCE}\n</code>"


def call(name, **arguments):
    """A turn that calls a tool."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def calls(*named):
    """The action of calls, each a name or a name with arguments."""
    return Calls(tuple(Call(*((one,) if isinstance(one, str) else one)) for one in named))


def runs(source):
    """The action of running Python."""
    return calls(("code", {"code": source}))


# What stands around an action and changes nothing: thoughts of the model's own, thoughts that the chat template opened, and both
# full of actions that were only considered.
THOUGHTS = {
    "none": "",
    "own": "<think>\nI look.\n</think>\n\n",
    "opened by the template": "I look.\n</think>\n\n",
    "with an answer": "<think>Perhaps <answer>7</answer>.</think>\n",
    "opened, with an answer": "Perhaps <answer>7</answer>, but I must look.\n</think>\n",
    "with code": f"<think>I could run {code('print(7)')}.</think>",
    "opened, with code": f"I could run {code('print(7)')}.\n</think>\n",
    "with a call": f"<think>I could call {call('zoom')}.</think>",
    "opened, with a call": f"I could call {call('zoom')}.\n</think>\n",
    "with a tag left open": "<think>I could write <answer> or <code> or <tool_call></think>",
    "opened, with a tag left open": "I could write <answer> or <code> or <tool_call>.\n</think>\n",
    "opened twice": "<think>\n<think>\nPerhaps <answer>7</answer>.\n</think>\n",
    "with thoughts inside": "<think>a <think>b</think> <answer>7</answer> c</think>\n",
    "opened, with thoughts inside": "a <think>b</think> <answer>7</answer> c</think>\n",
    "with a tag of thoughts": "<think>I must close the <think> tag.</think>\n",
    "empty": "<think/>\n",
    "left empty by the template": "<think>\n\n</think>\n\n",
    "in capitals": "<THINK>Perhaps <answer>7</answer>.</THINK>\n",
    "spelt out": "<thinking>Perhaps <answer>7</answer>.</thinking>\n",
    "opened, spelt out": "Perhaps <answer>7</answer>.</thinking>\n",
    "reasoning": "<reasoning>Perhaps <answer>7</answer>.</reasoning>\n",
    "OpenThinker's": "<|begin_of_thought|>Perhaps <answer>7</answer>.<|end_of_thought|>\n",
    "Kimi's": "◁think▷Perhaps <answer>7</answer>.◁/think▷\n",
    "Magistral's": "[THINK]Perhaps <answer>7</answer>.[/THINK]\n",
    "opened, with code that was not finished": f"I could run <code>\n{FENCE}python\nprint(7) but no.\n</think>\n",
    "opened, with a call that was not finished": 'I could call <tool_call>{"name": but no.\n</think>\n',
    "two": "<think>a</think>\n<think>b</think>\n",
}

TAGGED = "</answer></code></tool_call></think><think><answer>1</answer><tool_call>"
"""A text full of tags, as an argument or inside code."""
