"""Locks: `ray up` with the shipped cluster-local.yaml makes a cluster of two real hosts over ssh, with token authentication; the
head offers no CPU, the worker room for four jails per CPU, and a task that asks for one runs there; `ray down` takes it away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from k8s_hosts import HEAD, WORKER
from k8s_manifests import CHECKOUT, K8S, changed, load

TOOLS = ["ip", "sshd", "ssh", "ssh-keygen", "rsync", "unshare"]
MISSING = [tool for tool in TOOLS if shutil.which(tool, path=os.defpath + ":/usr/sbin:/sbin") is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.skipif(os.geteuid() != 0, reason="making hosts out of namespaces needs root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: iproute2 openssh-server rsync)"),
]


def test_ray_up_makes_a_cluster_of_two_hosts() -> None:
    # The hosts have no way to a package registry: they share this checkout's environment instead of installing their own.
    link = f"ln -sfn {CHECKOUT}/.venv ~/toolwise/.venv"
    config = load(K8S / "cluster-local.yaml")
    install = [i for i, command in enumerate(config["setup_commands"]) if "make install" in command]
    with tempfile.TemporaryDirectory(prefix="ray-up-", dir="/var/tmp") as name:
        folder = Path(name)
        changes = {
            "provider.head_ip": HEAD,
            "provider.worker_ips": [WORKER],
            "auth": {"ssh_user": "root", "ssh_private_key": f"{folder}/key"},
            f"setup_commands.{install[0]}": link,
        }
        (folder / "cluster.yaml").write_text(yaml.safe_dump(changed(config, changes)))
        environment = os.environ | {"HOME": str(folder), "RAY_UP_enable_autoscaler_v2": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        unshare = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        private_tmp = 'mount -t tmpfs tmpfs /tmp && exec "$@"'
        command = [
            *unshare,
            "sh",
            "-c",
            private_tmp,
            "sh",
            sys.executable,
            str(Path(__file__).with_name("k8s_hosts.py")),
            str(folder),
        ]
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=450)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    answer = done.stdout.strip().splitlines()[-1]
    assert answer.startswith("{"), done.stdout[-4000:]
    probe = json.loads(answer)
    assert set(probe["nodes"]) == {HEAD, WORKER}
    assert "CPU" not in probe["nodes"][HEAD] and "sandbox" not in probe["nodes"][HEAD]
    assert probe["nodes"][WORKER]["sandbox"] == 16 * os.sysconf("SC_NPROCESSORS_ONLN")
    assert probe["ran_on"] == WORKER
    # `ray down` stops the head; a worker ends by itself a minute after it has lost its head.
    assert probe["left"] == []
