"""Locks: what the Dockerfile copies exists, its commands are valid shell, it installs one of the hash-pinned files and every
package of the project, its user is an ordinary one, and its system libraries are those that README, Makefile and cluster files
name."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest
from k8s_manifests import CHECKOUT, K8S, apt_packages, dockerfile

INSTRUCTIONS = dockerfile()
RUNS = [re.sub(r"^(--\S+\s+)+", "", argument) for instruction, argument in INSTRUCTIONS if instruction == "RUN"]
COPIED = [source for instruction, argument in INSTRUCTIONS if instruction == "COPY" for source in argument.split()[:-1]]
ARGS = dict(argument.split("=", 1) for instruction, argument in INSTRUCTIONS if instruction == "ARG")


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    kept = {line[1:] for line in (K8S / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source.rstrip("/") for source in COPIED} == kept
    assert [source for source in COPIED if not (CHECKOUT / source).exists()] == []


def test_every_package_of_the_project_is_copied() -> None:
    build = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(build["only-include"]) <= {source.rstrip("/") for source in COPIED}


@pytest.mark.parametrize("command", RUNS)
def test_commands_are_valid_shell(command: str) -> None:
    assert subprocess.run(["sh", "-n", "-c", command], capture_output=True, timeout=10).returncode == 0


def test_the_environment_is_hash_checked() -> None:
    [sync] = [command for command in RUNS if "pip sync" in command]
    assert "--require-hashes" in sync and "requirements/${REQUIREMENTS}.txt" in sync
    assert ARGS["REQUIREMENTS"] == "gpu"
    assert all((CHECKOUT / "requirements" / f"{name}.txt").exists() for name in ("cpu", "gpu"))
    assert any("uv pip install --no-deps" in command for command in RUNS)


def test_python_is_the_projects() -> None:
    version = (CHECKOUT / ".python-version").read_text().strip()
    assert ARGS["BASE"].startswith(f"python:{version}-")
    assert all(f"python{version}" in command for command in RUNS if "uv venv" in command)


def test_the_image_runs_as_an_ordinary_user() -> None:
    users = [argument for instruction, argument in INSTRUCTIONS if instruction == "USER"]
    assert users and users[-1] == "1000:1000"


def test_system_libraries_agree_with_the_documents() -> None:
    image = apt_packages((K8S / "Dockerfile").read_text())
    for path in (CHECKOUT / "README.md", CHECKOUT / "Makefile", K8S / "cluster-aws.yaml"):
        text = path.read_text()
        unnamed = [library for library in ("libnl-route-3-200", "libnuma1") if library not in text]
        assert not unnamed, f"{path.name} does not name {unnamed}: nsjail and vLLM's CPU build need them"
        missing = {package for package in apt_packages(text) if package.startswith("lib")} - image
        assert not missing, f"{path.name} names {sorted(missing)}, which the image lacks"


def test_the_makefile_installs_either_pinned_file() -> None:
    # The cluster files choose with this variable.
    for name in ("cpu", "gpu"):
        command = ["make", "--dry-run", "--always-make", "install", f"GROUP={name}"]
        printed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=30).stdout
        assert f"requirements/{name}.txt" in printed


def test_packages_are_read_from_commands() -> None:
    text = "`sudo apt-get install -y libnl-route-3-200 make` and RUN apt-get install \\\n  g++ \\\n  rsync && rm x"
    assert apt_packages(text) == {"libnl-route-3-200", "make", "g++", "rsync"}


def test_the_readme_names_files_that_exist() -> None:
    named = set(re.findall(r"(?:k8s|tests|rollout)/[\w./-]+", (K8S / "README.md").read_text()))
    assert named and [path for path in named if not (CHECKOUT / path.rstrip("./")).exists()] == []
