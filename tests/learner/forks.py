"""Processes that are forked from one that has imported torch, transformers and verl already: they start in a moment.

A process for tests forks from one server. It looks for the modules in its working directory alone, not in the tests' folders, and
passes over what it does not find.
"""

import multiprocessing
import tempfile
import uuid

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["learner.verl.worker", "learner.run_files.checkpoints", "transformers.models.qwen2.modeling_qwen2", "pytest"]
)


def rendezvous():
    """Where the ranks of a new process group find one another: a file, since another process may take a port that was free."""
    return f"file://{tempfile.gettempdir()}/toolwise-{uuid.uuid4().hex}"
