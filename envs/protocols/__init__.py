"""What a model writes and reads: which text is which action, and how results come back."""

from envs.protocols.actions import Action, Answer, Call, Calls, Malformed
from envs.protocols.deepeyes import DeepEyes
from envs.protocols.hermes import Hermes, Native
from envs.protocols.protocol import Message, Protocol, ToolGuide
from envs.protocols.text import encodable, escape

__all__ = [
    "Action",
    "Answer",
    "Call",
    "Calls",
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
