"""What users import: every name in an `__all__` exists, and importing the packages stays cheap."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["envs", "sandbox", "rollout", "evaluation"])
def test_every_public_name_exists(package):
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_importing_the_packages_imports_no_heavy_dependency():
    """With every public name of those that import one when it is first used."""
    program = (
        "import sys, envs, sandbox, rollout, evaluation; "
        "[getattr(package, name) for package in (envs, sandbox) for name in package.__all__]; "
        "print([n for n in ('ray', 'torch', 'vllm', 'mcp') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
