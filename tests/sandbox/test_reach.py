"""Reach: what code in a session can touch of the world outside it. Nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from sandbox_host import HIGH_FD, SECRET

from sandbox import Pool, Session, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOST_PATHS = [
    "/etc/shadow",
    "/etc/passwd",
    "/root",
    "/home",
    "/var",
    "/sys",
    "/usr",
    "/run",
    "/boot",
    "/dev/mem",
    "/dev/kmsg",
    "/dev/fuse",
]


@pytest.mark.parametrize("path", HOST_PATHS)
async def test_a_host_path_does_not_exist(lasting_session: Session, path: str) -> None:
    result = await lasting_session.run(f"import os; os.path.lexists({path!r})")
    assert result.stdout == "False\n"


async def test_the_checkout_is_not_there(session: Session) -> None:
    checkout = Path(__file__).resolve().parents[2]
    result = await session.run(f"import os; os.path.lexists({str(checkout)!r}), os.listdir('/work')")
    assert result.stdout == "(False, [])\n"


async def test_the_root_holds_only_what_was_put_there(lasting_session: Session) -> None:
    result = await lasting_session.run("import os; sorted(os.listdir('/'))")
    assert result.stdout == "['dev', 'lib64', 'mnt', 'opt', 'proc', 'tmp', 'work']\n"


async def test_climbing_out_through_dot_dot_stays_inside(lasting_session: Session) -> None:
    result = await lasting_session.run("import os; os.path.lexists('/work/../../../../../../root')")
    assert result.stdout == "False\n"


async def test_a_symlink_to_a_host_file_leads_nowhere(session: Session) -> None:
    result = await session.run("import os; os.symlink('/etc/shadow', 'link'); open('link').read()")
    assert "FileNotFoundError" in result.stderr


async def test_the_host_environment_is_not_inherited(lasting_session: Session) -> None:
    result = await lasting_session.run("import os; '|'.join(f'{k}={v}' for k, v in os.environ.items())")
    assert SECRET not in result.stdout
    assert "WANDB" not in result.stdout


async def test_no_visible_process_has_the_host_environment(lasting_session: Session) -> None:
    code = "import glob\nfor path in glob.glob('/proc/[0-9]*/environ'):\n    print(path, open(path, 'rb').read())"
    result = await lasting_session.run(code)
    assert SECRET not in result.stdout


async def test_no_host_descriptor_is_inherited(session: Session) -> None:
    code = """
import os
found = []
for fd in range(4096):
    try:
        os.fstat(fd)
        found.append(fd)
    except OSError:
        pass
found"""
    result = await session.run(code)
    assert result.stdout == "[0, 1, 2, 3]\n", f"descriptor {HIGH_FD} is open on the host"


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
async def test_an_internet_connection_has_nowhere_to_go(lasting_session: Session, family: str) -> None:
    address = "('127.0.0.1', 22)" if family == "AF_INET" else "('::1', 22)"
    result = await lasting_session.run(f"import socket; socket.socket(socket.{family}).connect({address})")
    assert result.status is Status.EXCEPTION
    assert "OSError" in result.stderr


@pytest.mark.parametrize("family", ["AF_NETLINK", "AF_VSOCK", "AF_PACKET", "AF_ALG", "AF_CAN", "AF_RDS", "AF_TIPC", "AF_QIPCRTR"])
async def test_an_exotic_socket_cannot_be_made(lasting_session: Session, family: str) -> None:
    code = f"import socket\nfor kind in (1, 2, 3, 5):\n    print(socket.socket(socket.{family}, kind))"
    result = await lasting_session.run(code)
    assert result.status is Status.EXCEPTION
    assert "Address family not supported" in result.stderr


async def test_no_network_interface_is_visible(lasting_session: Session) -> None:
    result = await lasting_session.run("import socket; [name for _, name in socket.if_nameindex()]")
    assert "lo" not in result.stdout


async def test_an_abstract_unix_socket_of_the_host_cannot_be_reached(lasting_session: Session) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0toolwise-test")
        server.listen()
        result = await lasting_session.run("import socket; socket.socket(socket.AF_UNIX).connect('\\0toolwise-test')")
    assert "ConnectionRefusedError" in result.stderr


async def test_only_its_own_processes_are_visible(session: Session) -> None:
    result = await session.run("import os; sorted(name for name in os.listdir('/proc') if name.isdigit()), os.getpid()")
    assert result.stdout == "(['2'], 2)\n"


async def test_proc_says_nothing_about_the_machine(lasting_session: Session) -> None:
    result = await lasting_session.run("import os; [name for name in os.listdir('/proc') if not name.isdigit()]")
    assert result.stdout == "['self', 'thread-self']\n"


async def test_the_init_cannot_be_looked_into(lasting_session: Session) -> None:
    code = """
import os
for name in ('mem', 'environ', 'fd', 'maps', 'root', 'cwd'):
    try:
        os.listdir(f'/proc/1/{name}') if name in ('fd', 'root', 'cwd') else open(f'/proc/1/{name}', 'rb').read(1)
        print('reached', name)
    except OSError as error:
        pass"""
    result = await lasting_session.run(code)
    assert result.stdout == ""


@pytest.mark.parametrize(
    "place",
    ["/opt/python/lib/python3.12/os.py", "/opt/toolwise/sandbox/jailed/interpreter.py", "/lib64/libc.so.6", "/new", "/opt/new"],
)
async def test_nothing_outside_its_directories_can_be_written(lasting_session: Session, place: str) -> None:
    result = await lasting_session.run(f"open({place!r}, 'a')")
    assert result.status is Status.EXCEPTION
    assert "Read-only file system" in result.stderr or "Permission denied" in result.stderr


async def test_site_packages_cannot_be_written(lasting_session: Session) -> None:
    result = await lasting_session.run("import numpy, os; open(os.path.dirname(numpy.__file__) + '/__init__.py', 'a')")
    assert result.status is Status.EXCEPTION


async def test_another_session_s_files_are_not_visible(pool: Pool) -> None:
    async with pool.session() as one, pool.session() as other:
        for place in ("/work", "/tmp", "/dev/shm"):
            await one.run(f"open('{place}/mine', 'w').write('secret')")
            seen = await other.run(f"import os; os.path.exists('{place}/mine')")
            assert seen.stdout == "False\n"


async def test_another_session_s_processes_cannot_be_signalled(pool: Pool) -> None:
    async with pool.session() as one, pool.session() as other:
        await one.run("x = 1")
        await other.run("import os, signal\nfor pid in range(3, 5000):\n    try: os.kill(pid, 9)\n    except OSError: pass\n")
        assert (await one.run("x")).stdout == "1\n"


async def test_another_session_s_shared_memory_is_not_visible(pool: Pool) -> None:
    shmget = "import ctypes; libc = ctypes.CDLL(None); libc.shmget(0x1234, 4096, {flags}) >= 0"
    async with pool.session() as one, pool.session() as other:
        assert (await one.run(shmget.format(flags="0o1666"))).stdout == "True\n"
        assert (await other.run(shmget.format(flags="0o666"))).stdout == "False\n"


async def test_another_session_s_sockets_cannot_be_reached(pool: Pool) -> None:
    async with pool.session() as one, pool.session() as other:
        await one.run("import socket; s = socket.socket(socket.AF_UNIX); s.bind('\\0here'); s.listen()")
        result = await other.run("import socket; socket.socket(socket.AF_UNIX).connect('\\0here')")
        assert "ConnectionRefusedError" in result.stderr


async def test_memory_of_an_earlier_session_is_not_left_behind(pool: Pool) -> None:
    # The brackets keep the scan from finding its own source.
    scan = """
import re
found = False
for line in open('/proc/self/maps'):
    span, mode = line.split()[:2]
    if mode.startswith('r') and 'vvar' not in line and 'vsyscall' not in line:
        start, end = (int(part, 16) for part in span.split('-'))
        with open('/proc/self/mem', 'rb', buffering=0) as memory:
            memory.seek(start)
            try: data = memory.read(min(end - start, 1 << 26))
            except OSError: continue
            found |= re.search(b'left-behind-by-the-firs[t]', data) is not None
found"""
    async with pool.session() as one:
        await one.run("secret = 'left-' + 'behind-by-' + 'the-first'")
        assert (await one.run(scan)).stdout == "True\n", "the scan finds what is there"
    async with pool.session() as other:
        assert (await other.run(scan)).stdout == "False\n"


async def test_sessions_do_not_share_random_numbers(pool: Pool) -> None:
    code = "import random, numpy; (random.random(), numpy.random.random())"
    drawn = set()
    for _ in range(3):
        async with pool.session() as session:
            drawn.add((await session.run(code)).stdout)
    assert len(drawn) == 3


async def test_code_is_not_root(lasting_session: Session) -> None:
    result = await lasting_session.run("import os; os.getuid(), os.geteuid(), os.getgid(), os.getegid(), 0 in os.getgroups()")
    assert result.stdout == "(1000, 1000, 1000, 1000, False)\n"


@pytest.mark.parametrize("name", ["cmdline", "environ", "mountinfo", "cgroup", "limits", "status"])
async def test_what_proc_says_of_itself_names_nothing_of_the_host(lasting_session: Session, name: str) -> None:
    result = await lasting_session.run(f"open('/proc/self/{name}', errors='replace').read()")
    for word in (SECRET, "toolwise-test", str(Path(__file__).resolve().parents[2]), "delegated", socket.gethostname()):
        assert word not in result.stdout


async def test_the_host_name_is_hidden(lasting_session: Session) -> None:
    assert (await lasting_session.run("import os; os.uname().nodename")).stdout == "'sandbox'\n"


async def test_the_network_namespace_has_no_way_to_itself_either(lasting_session: Session) -> None:
    code = "import socket\ns = socket.create_server(('127.0.0.1', 0))\nsocket.create_connection(s.getsockname(), 1)"
    result = await lasting_session.run(code)
    assert result.status is Status.EXCEPTION


@pytest.mark.parametrize("change", [0x8914, 0x8916, 0x890B, 0x8943], ids=["flags", "address", "route", "bridge"])
async def test_the_network_cannot_be_configured(lasting_session: Session, change: int) -> None:
    code = f"import fcntl, socket; fcntl.ioctl(socket.socket(), {change}, b'lo'.ljust(16, b'\\0') + bytes(104))"
    assert "Error" in (await lasting_session.run(code)).stderr.splitlines()[-1]


@pytest.mark.parametrize("kind", ["SOCK_RAW", "SOCK_PACKET"])
async def test_no_raw_socket_can_be_made(lasting_session: Session, kind: str) -> None:
    number = {"SOCK_RAW": 3, "SOCK_PACKET": 10}[kind]
    assert (await lasting_session.run(f"import socket; socket.socket(socket.AF_INET, {number}, 1)")).status is Status.EXCEPTION


@pytest.mark.parametrize("kind", ["sem", "msg"])
async def test_another_session_s_ipc_is_not_visible(pool: Pool, kind: str) -> None:
    arguments = "0x1234, 1, {}" if kind == "sem" else "0x1234, {}"
    code = f"import ctypes; ctypes.CDLL(None).{kind}get({arguments}) >= 0"
    async with pool.session() as one, pool.session() as other:
        assert (await one.run(code.format("0o1666"))).stdout == "True\n"
        assert (await other.run(code.format("0o666"))).stdout == "False\n"
