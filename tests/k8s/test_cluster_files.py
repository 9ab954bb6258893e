"""Locks: both `ray up` files pass Ray's own preparation and validation, install the project themselves, keep work off the head,
start no GPU before one is asked for, and offer the sandbox resource; a broken file does not pass."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from k8s_manifests import K8S, changed, load
from ray.autoscaler._private.util import prepare_config, validate_config

FILES = ["cluster-local.yaml", "cluster-aws.yaml"]


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as `ray up` uses it; raises if Ray refuses it."""
    config = prepare_config(config)
    validate_config(config)
    return config


def start_option(config: dict[str, Any], role: str, option: str) -> str | None:
    """The value of an option of `ray start` on heads or workers."""
    [command] = [line for line in config[f"{role}_start_ray_commands"] if "ray start" in line]
    match = re.search(rf'--{option}=("(?:\\.|[^"])*"|\S+)', command)
    return match[1] if match else None


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file_and_it_installs_the_project(name: str) -> None:
    config = prepared(load(K8S / name))
    assert config["file_mounts"]["~/toolwise"] == "."
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert any("make install GROUP=" in command for command in commands)
        # Ray's own default installs a nightly build.
        assert not any("wheels" in command for command in commands)
    for role in ("head", "worker"):
        assert any("RAY_AUTH_MODE=token" in command for command in config[f"{role}_start_ray_commands"])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cluster-local.yaml", {"provider.worker_ips": None}),
        ("cluster-local.yaml", {"available_node_types": {"other": {}}}),
        ("cluster-local.yaml", {"setup_command": []}),
        ("cluster-aws.yaml", {"head_node_type": "missing"}),
        ("cluster-aws.yaml", {"available_node_types.gpu.resources": {"GPU": "eight"}}),
        ("cluster-aws.yaml", {"available_node_types.sandbox.min_workers": 9}),
    ],
)
def test_ray_refuses_a_broken_file(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(BaseException):  # noqa: B017  Ray aborts with exceptions of several kinds, SystemExit and click's among them
        prepared(changed(load(K8S / name), changes))


def test_local_hosts_offer_jails_and_the_head_none() -> None:
    config = prepared(load(K8S / "cluster-local.yaml"))
    assert start_option(config, "head", "num-cpus") == "0"
    assert start_option(config, "head", "resources") is None
    resources = start_option(config, "worker", "resources")
    assert resources is not None
    assert json.loads(json.loads(resources.replace("$((16 * $(getconf _NPROCESSORS_ONLN)))", "8"))) == {"sandbox": 8}


def test_aws_types() -> None:
    config = prepared(load(K8S / "cluster-aws.yaml"))
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    gpu = [kind for kind in types.values() if kind["resources"].get("GPU")]
    assert gpu and all(kind["min_workers"] == 0 for kind in gpu)
    jails = [kind for kind in types.values() if "sandbox" in kind["resources"]]
    assert jails and all(kind["resources"]["sandbox"] > 0 and not kind["resources"].get("GPU") for kind in jails)
    assert sum(kind["max_workers"] for kind in types.values()) <= config["max_workers"]
