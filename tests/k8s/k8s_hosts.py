"""Hosts for `ray up` on one machine: network, mount and PID namespaces, each with its own sshd and home, on one bridge.

Run as a script in fresh namespaces (see test_ray_up.py): it makes the hosts, brings the cluster up with a configuration, runs a
probe on the head, takes the cluster down, and prints the probe's answer as the last line. Whatever it started ends with its PID
namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

OPERATOR = "10.99.0.1"
HEAD = "10.99.0.2"
WORKER = "10.99.0.3"

SSHD = """\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""

# The host's /etc/passwd says that root lives in /tmp/home, and /tmp is the host's own.
HOST = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run && mkdir /run/sshd
mount -t tmpfs tmpfs /dev/shm
mount --bind {folder} /mnt && mount -t tmpfs tmpfs /tmp && mkdir -p /tmp/home {folder} && mount --bind /mnt {folder}
mount --bind {folder}/passwd /etc/passwd
hostname {name}
until ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done
ip link set lo up && ip address add {address}/24 dev eth0 && ip link set eth0 up && ip route add default via {operator}
/usr/sbin/sshd -D -f {folder}/sshd_config &
wait
"""

PROBE = """\
import json, ray
ray.init(address="auto", log_to_driver=False)
@ray.remote(num_cpus=1, resources={"sandbox": 1})
def where():
    return ray.util.get_node_ip_address()
ran_on = ray.get(where.remote(), timeout=120)  # waits for the worker, which the head's autoscaler brings in
nodes = {node["NodeManagerAddress"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
print("probe", json.dumps({"ran_on": ran_on, "nodes": nodes}))
"""


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True)


def start_host(name: str, address: str, folder: Path) -> None:
    """Start a host; its processes end when this one's PID namespace does."""
    script = HOST.format(folder=folder, name=name, address=address, operator=OPERATOR)
    unshare = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    host = subprocess.Popen([*unshare, "bash", "-c", script])
    while os.readlink(f"/proc/{host.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        time.sleep(0.05)
    sh(f"ip link add {name} type veth peer name eth0 netns {host.pid} && ip link set {name} master bridge up")


def ray_processes() -> list[str]:
    """Names of Ray's processes on the hosts, zombies aside: they are visible from here, in PID namespaces below this one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            if name in ("raylet", "gcs_server") and rest.split()[0] != "Z":
                found.append(name)
    return sorted(found)


def main(folder: Path) -> None:
    sh("ip link set lo up && ip link add bridge type bridge && ip link set bridge up")
    sh(f"ip address add {OPERATOR}/24 dev bridge && ip route add default via {HEAD}")
    for key in ("key", "host_key"):
        sh(f"ssh-keygen -q -t ed25519 -N '' -f {folder}/{key}")
    (folder / "sshd_config").write_text(SSHD.format(folder=folder))
    (folder / "passwd").write_text("root:x:0:0:root:/tmp/home:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n")
    (folder / "probe.py").write_text(PROBE)
    start_host("head", HEAD, folder)
    start_host("worker", WORKER, folder)
    ray = [str(Path(sys.executable).parent / "ray")]
    cluster = str(folder / "cluster.yaml")
    subprocess.run([*ray, "get-auth-token", "--generate"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*ray, "up", "--yes", cluster], check=True)
    done = subprocess.run([*ray, "exec", cluster, f"RAY_AUTH_MODE=token python {folder}/probe.py"], capture_output=True, text=True)
    print(done.stdout, done.stderr)
    subprocess.run([*ray, "down", "--yes", cluster], check=True)
    [answer] = [line.removeprefix("probe ") for line in done.stdout.splitlines() if line.startswith("probe ")]
    began = time.monotonic()
    while (left := ray_processes()) and time.monotonic() - began < 120:
        time.sleep(1)
    print(json.dumps(json.loads(answer) | {"left": left, "left_for_s": time.monotonic() - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
