"""The doctor finds what is missing, says what to do about it, and certifies by trying what a session must not be able to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
import yaml

from sandbox import Result, SandboxUnavailable, Status, certification, doctor
from sandbox.doctor import Check, Report
from sandbox.host import cgroups

MOUNTED = Path("/proc/self/mountinfo").read_text()
HELD = Check("a", True, "held")


async def test_every_attempt_of_the_certification_fails_here() -> None:
    reduced = doctor.probe().level == "reduced"
    if doctor.probe().level == "none":
        pytest.skip("no sandbox can run here: run `toolwise doctor`")
    found = {check.name: check for check in await certification.certify(accept_reduced_isolation=reduced)}
    assert {check.name: check.found for check in found.values() if not check.ok and check.required} == {}
    assert set(found) >= {"reach host files", "reach a network", "gain privileges", "multiply", "fill the disk", "take more memory"}


@pytest.mark.parametrize("name", certification._ATTEMPTS)
def test_an_attempt_succeeds_without_a_jail(name: str, tmp_path: Path) -> None:
    """Else it proves nothing: run as root on the host, each of them must find something."""
    code = certification._ATTEMPTS[name].replace("/tmp/file", str(tmp_path / "file")).replace("time.sleep(5)", "time.sleep(0.2)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip(), done.stderr


async def test_a_jail_that_does_not_start_is_one_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: object) -> None:
        raise SandboxUnavailable("no jail")

    monkeypatch.setattr(certification.Pool, "__aenter__", refuse)
    (check,) = await certification.certify()
    assert (check.name, check.ok, check.found) == ("session", False, "no jail")


async def test_an_attempt_that_a_busy_machine_does_not_finish_is_said_to_be_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """No finding is made up: of the memory nothing was taken, and of the files nothing was read."""

    class Busy:
        async def run(self, code: str) -> Result:
            return Result(Status.TIMEOUT, "", "TimeoutError", (), 30.2)

    monkeypatch.setattr(certification.Pool, "__aenter__", AsyncMock(return_value=Mock(session=lambda: nullcontext(Busy()))))
    monkeypatch.setattr(certification.Pool, "__aexit__", AsyncMock(return_value=None))
    checks = await certification.certify()
    assert {check.ok for check in checks} == {False}
    assert {check.found for check in checks} == {"not known: the attempt did not end within 30 s"}
    assert [check.name for check in checks if not check.required] == ["take more memory"]


def test_the_level_is_none_if_a_required_protection_is_missing() -> None:
    assert Report((HELD, Check("b", False, "-", "do this"))).level == "none"


def test_the_level_is_reduced_if_only_waivable_protections_are_missing() -> None:
    assert Report((HELD, Check("b", False, "-", "do this", required=False))).level == "reduced"


def test_without_a_cgroup_the_level_is_reduced_and_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "detect", lambda: "the memory and pids controllers are not mounted")
    report = doctor.probe()
    (check,) = [check for check in report.checks if check.name == "cgroup"]
    assert (check.ok, check.required) == (False, False)
    assert "systemd-run --scope -p Delegate=yes" in str(report)


@pytest.mark.skipif(os.geteuid() != 0, reason="unmounting in a mount namespace takes root")
@pytest.mark.skipif(" - cgroup cgroup " not in MOUNTED, reason="cgroup v2 alone here: its controllers are not taken by v1")
def test_controllers_that_a_unified_hierarchy_does_not_give_are_named(tmp_path: Path) -> None:
    """Where v1 has the controllers, a real v2 mount gives none."""
    hide = 'umount $(awk \'$3 == "cgroup" {print $2}\' /proc/mounts) && mount -t cgroup2 none "$1" && exec "$2" -c "$3"'
    look = "from sandbox.host import cgroups; print(cgroups.detect())"
    command = ["unshare", "--mount", "sh", "-c", hide, "sh", str(tmp_path), sys.executable, look]
    told = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert "is not given the memory and pids controller" in told.stdout


def test_a_masked_proc_shows_the_security_context_for_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_try", lambda program, *arguments: "refused" if program == doctor._TRY_PROC else "")
    assert "procMount: Unmasked" in str(doctor.probe())


def test_the_security_context_is_that_of_the_manifests() -> None:
    wanted = yaml.safe_load(doctor.POD_SECURITY_CONTEXT)["spec"]
    cluster = yaml.safe_load((Path(__file__).parents[2] / "k8s/base/raycluster.yaml").read_text())
    (group,) = [group for group in cluster["spec"]["workerGroupSpecs"] if group["groupName"] == "sandbox"]
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert (wanted["hostUsers"], wanted["securityContext"]) == (pod["hostUsers"], pod["securityContext"])
    assert wanted["containers"][0]["securityContext"] == container["securityContext"]


def test_json_holds_the_level_the_checks_and_the_security_context() -> None:
    report = json.loads(doctor.probe().to_json())
    assert report.keys() == {"level", "checks", "pod"}
    assert all(check.keys() == {"name", "ok", "found", "remedy", "required"} for check in report["checks"])
