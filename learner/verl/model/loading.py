"""Says in one line why a policy's weights cannot be loaded, and that some are missing, of which transformers only warns; and
fetches those of a URL."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from fsspec.core import url_to_fs
from safetensors import SafetensorError
from transformers import PreTrainedModel, modeling_utils

from envs.errors import ToolwiseError, UsageError
from rollout.engines.registry import first_few, lacking

log = logging.getLogger(__name__)

# A machine's failure is none of the policy's; these are RuntimeErrors as well. Packages that a policy asks for are its own.
MACHINE = (torch.OutOfMemoryError, torch.AcceleratorError, torch.distributed.DistError)
OF_MODELS = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError, ImportError)
_OF_FILES = (OSError, *OF_MODELS)


@contextmanager
def whole_policy(directory: str) -> Generator[None]:
    """While a policy is loaded: raise UsageError if its files cannot be read, or do not hold every weight in its shape.

    transformers fills weights that are missing with random numbers, and its exception for others refers to a table in the log.
    """
    report = modeling_utils.log_state_dict_report

    def refusing(*arguments: Any, loading_info: Any, **named: Any) -> None:
        if missing := loading_info.missing_keys:
            raise UsageError(f"policy={directory} {lacking(missing)}")
        if loading_info.mismatched_keys:
            wrong = [f"{name} is {tuple(found)} and not {tuple(asked)}" for name, found, asked in loading_info.mismatched_keys]
            raise UsageError(f"policy={directory} has weights of other shapes than its config.json asks for: {first_few(wrong)}")
        report(*arguments, loading_info=loading_info, **named)

    modeling_utils.log_state_dict_report = refusing  # ty: ignore[invalid-assignment]
    try:
        yield
    except (ToolwiseError, *MACHINE):
        raise
    except SafetensorError as error:
        raise UsageError(
            f"policy={directory}: one of its *.safetensors is cut or damaged ({error}): fetch or save it again"
        ) from error
    except _OF_FILES as error:
        log.warning("the policy %s could not be loaded", directory, exc_info=True)
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(f"the learner cannot load policy={directory}: {reason}") from error
    finally:
        modeling_utils.log_state_dict_report = report


def check_tied(model: PreTrainedModel, directory: str) -> None:
    """Raise UsageError if a model's output layer is not its embedding though its configuration says so, which samplers go by."""
    if not model.config.tie_word_embeddings:
        return
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        raise UsageError(
            f"policy={directory} has an output layer of its own, but tie_word_embeddings=true, by which a sampler takes the "
            "embedding: write false in its config.json"
        )


@contextmanager
def local_copy(policy_dir: str) -> Generator[str]:
    """The directory of a policy while it is loaded: a copy, which is removed afterwards, if `policy_dir` is a URL."""
    if "://" not in policy_dir:
        yield policy_dir
        return
    fs, path = url_to_fs(policy_dir)
    with tempfile.TemporaryDirectory() as directory:
        fs.get(f"{path}/", f"{directory}/", recursive=True)
        yield directory
