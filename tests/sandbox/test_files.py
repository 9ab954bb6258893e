"""Files: whatever the code makes in its directories, or of ours, is bounded, leads nowhere, and is gone with the session."""

from __future__ import annotations

import asyncio

import pytest
from sandbox_host import LIMITS

from sandbox import Pool, Session, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("kind", ["S_IFBLK", "S_IFCHR"])
@pytest.mark.parametrize("place", ["/work", "/tmp", "/dev/shm"])
async def test_no_device_can_be_made(lasting_session: Session, place: str, kind: str) -> None:
    code = f"import os, stat; os.mknod('{place}/device', 0o600 | stat.{kind}, os.makedev(8, 0))"
    assert "PermissionError" in (await lasting_session.run(code)).stderr


@pytest.mark.parametrize("place", ["/work", "/tmp", "/dev/shm"])
async def test_nothing_in_its_directories_can_be_executed(session: Session, place: str) -> None:
    code = f"""
import os, shutil
shutil.copy('/lib64/ld-linux-x86-64.so.2', '{place}/program')
os.chmod('{place}/program', 0o6755)
os.execv('{place}/program', ['program'])"""
    assert "PermissionError" in (await session.run(code)).stderr


async def test_a_library_it_wrote_cannot_be_loaded(session: Session) -> None:
    code = "import ctypes, shutil; shutil.copy('/lib64/libc.so.6', '/work/lib.so'); ctypes.CDLL('/work/lib.so')"
    assert "failed to map segment" in (await session.run(code)).stderr


async def test_a_file_of_ours_cannot_be_linked_into_its_directory(lasting_session: Session) -> None:
    assert "OSError" in (await lasting_session.run("import os; os.link('/opt/python/bin/python3.12', '/work/python')")).stderr


@pytest.mark.parametrize(
    "change",
    [
        "os.chmod(path, 0o777)",
        "os.chown(path, os.getuid(), os.getgid())",
        "os.utime(path)",
        "os.rename(path, path + 'x')",
        "os.unlink(path)",
        "os.truncate(path, 0)",
        "os.setxattr(path, 'user.x', b'x')",
        "os.replace('/work/mine', path)",
    ],
    ids=["mode", "owner", "times", "name", "existence", "length", "attributes", "replacement"],
)
@pytest.mark.parametrize("path", ["/opt/toolwise/sandbox/jailed/interpreter.py", "/opt/python/bin/python3.12", "/lib64/libc.so.6"])
async def test_a_file_of_ours_cannot_be_changed(lasting_session: Session, path: str, change: str) -> None:
    result = await lasting_session.run(f"import os; open('/work/mine', 'w').close(); path = {path!r}; {change}")
    assert result.status is Status.EXCEPTION
    assert "OSError" in result.stderr or "PermissionError" in result.stderr


@pytest.mark.parametrize("change", ["os.unlink(path)", "os.chmod(path, 0)", "os.chown(path, 1000, 1000)"])
@pytest.mark.parametrize("device", ["null", "zero", "full", "random", "urandom"])
async def test_a_device_of_the_host_cannot_be_changed(lasting_session: Session, device: str, change: str) -> None:
    assert "Error" in (await lasting_session.run(f"import os; path = '/dev/{device}'; {change}")).stderr
    assert (await lasting_session.run(f"import os; os.stat('/dev/{device}').st_mode & 0o777 == 0o666")).stdout == "True\n"


async def test_entropy_cannot_be_credited(lasting_session: Session) -> None:
    assert "PermissionError" in (await lasting_session.run("import fcntl; fcntl.ioctl(open('/dev/urandom'), 0x5204)")).stderr


async def test_a_sparse_file_cannot_be_huge(session: Session) -> None:
    result = await session.run("import os; os.truncate(os.open('/work/sparse', os.O_CREAT | os.O_RDWR), 1 << 40)")
    assert "File too large" in result.stderr


async def test_space_cannot_be_reserved_beyond_the_limit(session: Session) -> None:
    code = f"import os; os.posix_fallocate(os.open('/work/reserved', os.O_CREAT | os.O_RDWR), 0, {LIMITS.disk_bytes * 2})"
    assert "OSError" in (await session.run(code)).stderr


async def test_a_deleted_file_that_is_open_still_counts(session: Session) -> None:
    code = """
import os
files = []
for n in range(30):
    files.append(open('/work/file', 'wb', 0))
    os.unlink('/work/file')
    if files[-1].write(bytes(1 << 20)) < 1 << 20: break
n < 17"""
    result = await session.run(code)
    assert result.stdout == "True\n" or "No space left" in result.stderr


@pytest.mark.parametrize(
    "make", ["os.symlink('x', name)", "os.mkdir(name)", "os.mkfifo(name)", "os.link('/work/one', name)"],
    ids=["symlinks", "directories", "pipes", "hard links"],
)  # fmt: skip
async def test_every_kind_of_entry_is_limited(session: Session, make: str) -> None:
    code = f"import os\nopen('/work/one', 'w').close()\nfor n in range(40_000):\n    name = f'/work/{{n}}'\n    {make}"
    result = await session.run(code, timeout_s=8)
    assert result.status is Status.EXCEPTION
    assert "No space left" in result.stderr or "Too many links" in result.stderr


async def test_a_deep_tree_does_not_hold_up_the_end(pool: Pool) -> None:
    async with asyncio.timeout(60), pool.session() as session:
        result = await session.run("import os\nfor n in range(10_000):\n    os.mkdir('d')\n    os.chdir('d')")
        assert result.status is Status.OK


async def test_names_that_are_not_text_do_no_harm(session: Session) -> None:
    code = r"import os; open(b'/work/\xff\n\x1b', 'w').close(); os.mkdir(b'/tmp/' + b'\x80' * 255); os.listdir(b'/work')"
    assert (await session.run(code)).stdout == "[b'\\xff\\n\\x1b']\n"


@pytest.mark.parametrize("name", ["/proc/self/fd/3", "/proc/self/root/etc/shadow", "/proc/self/cwd/../etc", "/proc/1/root/etc"])
async def test_no_link_of_proc_leads_out(lasting_session: Session, name: str) -> None:
    assert (await lasting_session.run(f"open({name!r}).read()")).status is Status.EXCEPTION


async def test_a_loop_of_symlinks_is_an_error_of_the_code(session: Session) -> None:
    assert "Too many levels" in (await session.run("import os; os.symlink('b', 'a'); os.symlink('a', 'b'); open('a')")).stderr


async def test_a_fifo_without_a_reader_times_out(session: Session) -> None:
    result = await session.run("import os; os.mkfifo('pipe'); open('pipe', 'w')", timeout_s=0.2)
    assert (result.status, "variables are kept" in result.stderr) == (Status.TIMEOUT, True)


async def test_reading_a_device_without_end_is_stopped(session: Session) -> None:
    assert (await session.run("open('/dev/zero', 'rb').read()", timeout_s=2)).status in (Status.MEMORY, Status.TIMEOUT)


async def test_the_working_directory_can_be_removed(session: Session) -> None:
    await session.run("import os; os.mkdir('/tmp/here'); os.chdir('/tmp/here'); os.rmdir('/tmp/here')")
    assert (await session.run("1")).stdout == "1\n"


@pytest.mark.parametrize("place", ["/work", "/tmp", "/dev/shm", "/mnt", "/proc"])
async def test_a_mount_cannot_be_taken_away(lasting_session: Session, place: str) -> None:
    code = f"import os\ntry: os.rmdir({place!r})\nexcept OSError as error: raise OSError"
    assert "OSError" in (await lasting_session.run(code)).stderr
