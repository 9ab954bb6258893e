"""Tests the isolation itself: a real session tries what no session may do, and each attempt is reported.

The probes of `sandbox.doctor` say which protections this machine offers; these checks say that the protections hold.
"""

from __future__ import annotations

from sandbox.doctor import Check
from sandbox.pool import Pool
from sandbox.types import Limits, Result, SandboxUnavailable, Status

_LIMITS = Limits(wall_s=30, cpu_s=5, memory_bytes=256 << 20, pids=16, disk_bytes=8 << 20)
_REMEDY = "run no untrusted code here, and report this with the output of `toolwise doctor format=json`"

# Each prints what succeeded, and nothing if the protection held.
_ATTEMPTS = {
    "reach host files": """
import os
for path in ('/etc/passwd', '/root', '/home', '/sys', '/var', '/proc/sys', '/proc/kcore'):
    if os.path.exists(path): print(path)
""",
    "reach a network": """
import socket
for family, address in ((socket.AF_INET, ('127.0.0.1', 9)), (socket.AF_INET6, ('::1', 9))):
    try: socket.socket(family, socket.SOCK_DGRAM).sendto(b'?', address); print(family.name)
    except OSError: pass
for family in (socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK):
    try: socket.socket(family, socket.SOCK_STREAM if family == socket.AF_VSOCK else socket.SOCK_RAW); print(family.name)
    except OSError: pass
""",
    "reach other processes": """
import os
for name in os.listdir('/proc'):
    if name.isdigit() and int(name) != os.getpid(): print('process', name)
""",
    "gain privileges": """
import ctypes, os
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
if os.getuid() == 0 or int(status['CapEff'], 16) or int(status['CapBnd'], 16): print('capabilities')
if (status['NoNewPrivs'].strip(), status['Seccomp'].strip()) != ('1', '2'): print('no filter')
try: open('/proc/self/oom_score_adj', 'w'); print('a longer life when memory ends')
except OSError: pass
calls = {'unshare': (272, 0x10000000), 'ptrace': (101, 0), 'bpf': (321, 0), 'io_uring': (425, 1), 'add_key': (248, 0)}
for name, (number, argument) in calls.items():
    if ctypes.CDLL(None).syscall(number, argument, 0, 0, 0, 0) != -1: print(name)
""",
    "fill the disk": f"""
import os
file, size = os.open('/tmp/file', os.O_CREAT | os.O_WRONLY), 0
try:
    while size <= {_LIMITS.disk_bytes}: size += os.write(file, bytes(1 << 20))
    print(size, 'bytes')
except OSError: pass
""",
    "multiply": f"""
import os, time
for made in range(64):
    try:
        if os.fork() == 0: time.sleep(5); os._exit(0)
    except OSError: break
if made >= {_LIMITS.pids}: print(made, 'processes')
""",
}
# No limit of a single process counts memory that is shared, or spread over a tree of processes.
_TAKE_MEMORY = f"""
import mmap, os
share = {_LIMITS.memory_bytes // 2}
for _ in range(3):
    if os.fork() == 0:
        block = mmap.mmap(-1, share); block.write(b'x' * share); os._exit(0)
print(sum(os.waitstatus_to_exitcode(os.wait()[1]) == 0 for _ in range(3)))
"""


async def certify(accept_reduced_isolation: bool = False) -> tuple[Check, ...]:
    """One check for each attempt, in about a second; a single failed check if no session could be started."""
    try:
        async with Pool(_LIMITS, size=1, preload=(), accept_reduced_isolation=accept_reduced_isolation) as pool:
            return tuple([await _attempt(pool, name, code) for name, code in _ATTEMPTS.items()] + [await _take_memory(pool)])
    except SandboxUnavailable as error:
        return (Check("session", False, str(error), _REMEDY),)


async def _attempt(pool: Pool, name: str, code: str) -> Check:
    async with pool.session() as session:
        result = await session.run(code)
    if result.status is Status.TIMEOUT:
        return _undecided(name, result)
    held = result.status is Status.OK and not result.stdout
    found = "cannot" if held else " ".join((result.stdout or result.stderr).split())[-200:]
    return Check(name, held, found, "" if held else _REMEDY)


async def _take_memory(pool: Pool) -> Check:
    """Only a cgroup bounds the memory of a whole process tree, so this one check may be waived with it."""
    async with pool.session() as session:
        result = await session.run(_TAKE_MEMORY)
    if result.status is Status.TIMEOUT:
        return _undecided("take more memory", result, required=False)
    held = result.status is Status.MEMORY or (result.status is Status.OK and int(result.stdout) < 3)
    found = "cannot" if held else f"{3 * _LIMITS.memory_bytes // 2 >> 20} MiB, but {_LIMITS.memory_bytes >> 20} MiB are allowed"
    return Check("take more memory", held, found, "" if held else "see cgroup above", required=False)


def _undecided(name: str, result: Result, required: bool = True) -> Check:
    """A busy machine is no broken one, but an attempt that did not end proves nothing."""
    remedy = "run `toolwise doctor` again when this machine has less to do"
    return Check(name, False, f"not known: the attempt did not end within {result.duration_s:.0f} s", remedy, required)
