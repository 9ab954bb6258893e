"""Every error that Toolwise raises on purpose, in one tree.

    ToolwiseError
    ├── UsageError                  the user can fix it; one line that says what to write instead
    │   └── DatasetError            a file of questions, or one of its rows, cannot be used
    │       └── ItemError           a row that was usable when the file was checked is no longer: only that item fails
    ├── RowError                    one row of a file cannot be used; a DatasetError names the file and the number
    │   └── PictureError            a picture is missing, broken or too large
    ├── InfrastructureError         a machine, a process or a service failed: the episode is run again
    │   ├── EngineStopped           a worker's engine has failed: another worker takes its place
    │   └── FleetError              infrastructure failed after all retries: the run stops
    ├── SearchUnavailable           a search gave no answer: an observation, and the episode goes on
    ├── EndpointFailed              an OpenAI-compatible endpoint gave no usable answer, after all attempts
    ├── EndpointRefused             the endpoint refuses this request, whatever the attempt; others may pass
    │   ├── ConversationTooLong     … because the conversation exceeds the model's context
    │   └── EndpointUnusable        … as it would any other: the key, the address, the model's name or the account is wrong
    └── TokenBudgetExceeded         the next turn does not fit into the episode's tokens

What a model does wrong is never an exception: it is an observation. `sandbox.SandboxUnavailable` is not in the tree, since
`sandbox` imports no other package. The command line prints one line for each error: exit status 2 for a UsageError, 1 for an
InfrastructureError.
"""

from __future__ import annotations


class ToolwiseError(Exception):
    """The base class of all the others."""


class UsageError(ToolwiseError):
    """The user asked for something impossible; the message is one line that says what to write instead."""


class DatasetError(UsageError):
    """A file of questions, or one of its rows, cannot be used; the message names both and the remedy in one line."""


class ItemError(DatasetError):
    """A row was usable when the file was checked and is no longer: its picture broke or is gone. Other items are not affected."""


class RowError(ToolwiseError):
    """A row cannot be used; the message is the reason, without file and number."""


class PictureError(RowError):
    """A picture is missing, broken or, if `too_large`, has too many pixels; the message is the reason."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class InfrastructureError(ToolwiseError):
    """A machine, a process or a service failed, not the model: the episode is run again and never enters any statistics."""


class EngineStopped(InfrastructureError):
    """The engine of a worker has failed, and the worker with it; the message says why."""


class FleetError(InfrastructureError):
    """Infrastructure failed after all retries; the message names the last failure."""


class SearchUnavailable(ToolwiseError):
    """A search service gave no answer; the message says why."""


class EndpointFailed(ToolwiseError):
    """No usable answer, after all attempts. The message is one line."""


class EndpointRefused(ToolwiseError):
    """The endpoint refuses this request: another attempt would not help, another request may pass. The message is one line."""


class ConversationTooLong(EndpointRefused):
    """The conversation, with the tokens asked for, exceeds the model's context."""


class EndpointUnusable(EndpointRefused):
    """The endpoint would refuse every request: its address, the key, the account or the model's name is wrong."""


class TokenBudgetExceeded(ToolwiseError):
    """The next turn does not fit: not even its frame into the token budget, or the conversation into an endpoint's context."""
