"""Protocols between a model's text and an environment: which text is which action, and how results are shown."""

from envs.protocols.actions import Action, Answer, Call, Calls, CutOff, Malformed
from envs.protocols.deepeyes import DeepEyes
from envs.protocols.hermes import Hermes, Native
from envs.protocols.protocol import Message, Protocol, ToolGuide
from envs.protocols.text import encodable, escape

__all__ = [
    "Action",
    "Answer",
    "Call",
    "Calls",
    "CutOff",
    "DeepEyes",
    "Hermes",
    "Malformed",
    "Message",
    "Native",
    "Protocol",
    "ToolGuide",
    "encodable",
    "escape",
]
