"""The jail's Python environment: an interpreter, packages and system libraries in one directory that any user id can read.

nsjail makes the bind mounts of a jail as the jail's own unprivileged id, which cannot read a virtual environment or an interpreter
below a user's private home. The environment is therefore *copied* into a separate directory, once, keyed by a hash of its inputs:

    <home>/rootfs-<key>/python   CPython with its standard library, and `packages.txt` installed as site-packages
    <home>/rootfs-<key>/lib      the dynamic loader and exactly the system libraries that these need, mounted as /lib64
    <home>/rootfs-<key>/fonts    matplotlib's font cache, so that a first plot need not build it, and fonts by name

`packages.txt` declares the packages; if a pool adds pins, a separate environment is built for them.
`python -m sandbox.rootfs [NAME==VERSION …]` builds it and prints the path.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sandbox import fonts
from sandbox.types import SandboxUnavailable

RECIPE = 4  # increase it when this module builds something different from the same packages
PACKAGES = Path(__file__).with_name("packages.txt")
SYSTEM_HOME = Path("/var/lib/toolwise")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_UNUSED = shutil.ignore_patterns(
    "site-packages", "dist-packages", "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "config-*", "_tkinter*"
)


def home() -> Path:
    """The directory that holds built environments: $TOOLWISE_HOME, or /var/lib/toolwise for root, or ~/.cache/toolwise."""
    if chosen := os.environ.get("TOOLWISE_HOME"):
        return Path(chosen)
    return SYSTEM_HOME if os.geteuid() == 0 else Path("~/.cache/toolwise").expanduser()


def pins(extra: Sequence[str] = ()) -> list[str]:
    """`packages.txt` with `extra` added, sorted; an extra pin replaces ours for the same package.

    Raises SandboxUnavailable if a pin is not NAME==VERSION.
    """
    lines = [line.strip() for line in PACKAGES.read_text().splitlines() if line.strip() and not line.startswith("#")]
    chosen: dict[str, str] = {}
    for pin in (*lines, *extra):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+", pin):
            raise SandboxUnavailable(f"{pin!r} does not pin a package for the jail: write NAME==VERSION")
        chosen[_normalised(pin.partition("==")[0])] = pin
    return sorted(chosen.values())


def offered(extra: Sequence[str] = ()) -> list[str]:
    """The names of the packages that are there for model-written code, sorted: without fonts and what the others need."""
    first = PACKAGES.read_text().split("# Fonts", 1)[0].splitlines()
    names = {_normalised(line.partition("==")[0]) for line in (*first, *extra) if line and not line.startswith("#")}
    return sorted(names)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def key(packages: Sequence[str] = ()) -> str:
    """A hash of everything that determines the content: pins, interpreter version, machine, recipe."""
    recipe = json.dumps([RECIPE, sys.version, platform.machine(), platform.libc_ver(), pins(packages)])
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


def site_packages(root: Path) -> Path:
    """The directory of the installed packages in a built environment."""
    return root / "python" / "lib" / PYTHON / "site-packages"


def versions(root: Path) -> dict[str, str]:
    """The packages installed in a built environment: version by package name."""
    installed = {_normalised(each.name): each.version for each in importlib.metadata.distributions(path=[str(site_packages(root))])}
    return dict(sorted(installed.items()))


def locate(packages: Sequence[str] = ()) -> Path | None:
    """The built environment, or None. A user who has not built one shares the one that root built."""
    name = f"rootfs-{key(packages)}"
    for directory in (home(),) if "TOOLWISE_HOME" in os.environ else (home(), SYSTEM_HOME):
        built = directory / name
        if built.is_dir() and built.stat().st_uid in (0, os.geteuid()):
            return built
    return None


def build(packages: Sequence[str] = ()) -> Path:
    """The path of the environment with `packages` added, built first if it is missing (about a minute; 870 MB).

    Raises SandboxUnavailable, with the remedy, if it cannot be built.
    """
    if built := locate(packages):
        return built
    directory = home()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if directory.stat().st_uid == os.geteuid():
            directory.chmod(0o755)  # whatever the umask: the jail's own id must be able to enter
        lock = (directory / ".lock").open("w")
    except OSError as error:
        raise SandboxUnavailable(
            f"cannot write the jail's environment to {directory} ({error.strerror}): set TOOLWISE_HOME"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two builders at once: the second finds the first one's work
        if built := locate(packages):
            return built
        for abandoned in directory.glob(".building-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".building-") as temporary:
            staging = Path(temporary) / "rootfs"
            _copy_python(staging / "python")
            _install(pins(packages), staging / "python")
            _require_closure(pins(packages), versions(staging))
            _copy_libraries(staging)
            _prepare_fonts(staging)
            _make_readable(staging)
            final = directory / f"rootfs-{key(packages)}"
            staging.rename(final)
    return final


def _copy_python(target: Path) -> None:
    """Copies the base interpreter, its standard library and its shared library, if it has one."""
    (target / "bin").mkdir(parents=True)
    (target / "lib").mkdir()
    shutil.copy2(os.path.realpath(getattr(sys, "_base_executable", sys.executable)), target / "bin" / PYTHON)
    shutil.copytree(sysconfig.get_path("stdlib"), target / "lib" / PYTHON, ignore=_UNUSED)
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        name = sysconfig.get_config_var("INSTSONAME")
        shutil.copy2(Path(sysconfig.get_config_var("LIBDIR")) / name, target / "lib" / name)
    # Debian's and Ubuntu's interpreters look for packages there.
    (target / "lib" / "python3").mkdir()
    (target / "lib" / "python3" / "dist-packages").symlink_to(Path("..", PYTHON, "site-packages"))


def _install(requirements: Sequence[str], python: Path) -> None:
    """Installs with the first installer that works: the checkout's uv, another uv, this interpreter's pip."""
    target = site_packages(python.parent)
    # Copies, not hard links: our permissions must not leak into uv's cache.
    for_uv = ["pip", "install", "--python", sys.executable, "--link-mode", "copy", "--compile-bytecode"]
    checkout_uv = Path(__file__).resolve().parents[1] / ".tools/bin/uv"
    installers = [[uv, *for_uv] for uv in (str(checkout_uv), shutil.which("uv")) if uv and Path(uv).exists()]
    installers.append([sys.executable, "-m", "pip", "install", "--disable-pip-version-check"])
    complaints = []
    for installer in installers:
        command = [*installer, "--target", str(target), *requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        shutil.rmtree(target, ignore_errors=True)
        complaints.append(" ".join(done.stderr.split())[-400:] or "no message")
    reasons = "; ".join(complaints)
    raise SandboxUnavailable(
        f"cannot install the jail's packages ({reasons}): correct the pins, or run `python -m sandbox.rootfs` with network"
    )


def _require_closure(requirements: Sequence[str], installed: dict[str, str]) -> None:
    """Raises SandboxUnavailable if an installed package is not pinned: its version would change from day to day."""
    pinned = {_normalised(pin.partition("==")[0]) for pin in requirements}
    if loose := [f"{name}=={version}" for name, version in installed.items() if name not in pinned]:
        raise SandboxUnavailable(f"the jail's packages need others that are not pinned: add {', '.join(loose)}")


def _copy_libraries(staging: Path) -> None:
    """Copies the loader and every system library that something in `staging` links against: the jail needs no host directory."""
    binaries = [staging / "python/bin" / PYTHON, *sorted(staging.rglob("*.so")), *sorted(staging.rglob("*.so.*"))]
    listing = subprocess.run(
        ["ldd", *map(str, binaries)],
        env={"LD_LIBRARY_PATH": str(staging / "python/lib"), "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,  # it fails if one of the files is a script that links against nothing
    ).stdout
    libraries = staging / "lib"
    libraries.mkdir()
    for source in sorted(set(re.findall(r"(/\S+) \(0x", listing))):
        if not source.startswith(str(staging)):
            shutil.copy2(os.path.realpath(source), libraries / Path(source).name)


def _prepare_fonts(staging: Path) -> None:
    python = staging / "python"
    environment = {"LD_LIBRARY_PATH": str(python / "lib"), "OPENBLAS_NUM_THREADS": "1"}
    command = [str(python / "bin" / PYTHON), "-I", "-c"]
    fonts.prepare(staging, site_packages(staging), command, environment)


def _make_readable(staging: Path) -> None:
    for path in [staging, *staging.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)


if __name__ == "__main__":
    try:
        print(build(sys.argv[1:]))
    except SandboxUnavailable as error:
        sys.exit(str(error))
