"""The jail's Python: one place declares its packages, configuration may add pins, and everything in it has a known version."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from sandbox_host import LIMITS

from sandbox import Pool, SandboxUnavailable, rootfs


def test_every_installed_package_is_pinned() -> None:
    assert sorted(f"{name}=={version}" for name, version in rootfs.versions(rootfs.build()).items()) == rootfs.pins()


async def test_the_jail_has_the_versions_that_are_declared() -> None:
    code = "import importlib.metadata as m\nfor d in m.distributions(): print(f'{d.name.lower()}=={d.version}')"
    async with Pool(LIMITS, size=1, preload=[]) as pool, pool.session() as session:
        assert sorted((await session.run(code)).stdout.split()) == rootfs.pins()


DEBIAN = Path("/usr/bin/python3").resolve()


@pytest.mark.skipif(not Path("/usr/lib/python3/dist-packages").is_dir() or not DEBIAN.exists(), reason="no Python of Debian's here")
def test_an_interpreter_of_debians_finds_the_packages_too(tmp_path: Path) -> None:
    """Debian's looks for them elsewhere. Its own version does not matter: cycler is plain Python."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    interpreter = Path(shutil.copy2(DEBIAN, tmp_path / "bin"))
    (tmp_path / "lib" / DEBIAN.name).symlink_to(Path("/usr/lib") / DEBIAN.name)
    (tmp_path / "lib" / "python3").symlink_to(rootfs.build() / "python" / "lib" / "python3")
    code = "import cycler; print(cycler.__file__)"
    told = subprocess.run([interpreter, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert str(tmp_path) in told.stdout


def test_an_added_pin_makes_an_environment_of_its_own() -> None:
    assert rootfs.key(["shapely==2.1.2"]) != rootfs.key()
    assert set(rootfs.pins(["shapely==2.1.2"])) - set(rootfs.pins()) == {"shapely==2.1.2"}


def test_an_added_pin_takes_the_place_of_the_declared_one() -> None:
    assert [pin for pin in rootfs.pins(["Python_Dateutil==2.9.0"]) if "dateutil" in pin.lower()] == ["Python_Dateutil==2.9.0"]


@pytest.mark.parametrize("pin", ["shapely", "shapely>=2", "shapely==2 --pre", "-r /etc/passwd", "git+https://host/x", ""])
def test_what_does_not_pin_a_version_is_refused(pin: str) -> None:
    with pytest.raises(SandboxUnavailable, match="write NAME==VERSION"):
        rootfs.build([pin])


@pytest.mark.slow
async def test_an_added_package_can_be_imported() -> None:
    async with Pool(LIMITS, size=1, preload=[], packages=["pyyaml==6.0.2"]) as pool, pool.session() as session:
        assert (await session.run("import yaml; yaml.__version__")).stdout == "'6.0.2'\n"


@pytest.mark.slow
def test_a_package_with_unpinned_dependencies_is_refused_and_they_are_named() -> None:
    with pytest.raises(SandboxUnavailable, match=r"not pinned: add certifi==\S+, charset-normalizer==\S+, idna==\S+, "):
        rootfs.build(["requests==2.32.3"])
