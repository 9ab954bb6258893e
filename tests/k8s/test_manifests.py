"""Locks: each overlay builds from files that exist and gives one cluster; every object satisfies its schema with no unknown field;
the job's cluster is the standing one and its command composes; the sandbox group's network is closed; versions and resource names
agree with the project's; what an actor asks Ray for, one pod offers."""

from __future__ import annotations

import ast
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from k8s_manifests import CHECKOUT, K8S, OVERLAYS, build, changed, load, schema, unknown_fields, with_defaults
from k8s_rules import cluster_spec, groups, offered, pod

from configs import compose
from envs.errors import UsageError
from learner.experiment import Experiment
from rollout.cluster import fleet, sandboxes

# `hostUsers` and `procMount` with defaults on, and the version where both are stable.
KUBERNETES = ["1.33", "1.36"]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]

Manifest = dict[str, Any]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    [found] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def ray_objects() -> list[Manifest]:
    return [manifest for folder in OVERLAYS for manifest in build(folder) if manifest["apiVersion"] == "ray.io/v1"]


def schema_errors(manifest: Manifest) -> list[str]:
    """What the API server would refuse or prune; empty for a good manifest."""
    rules = schema(manifest["kind"])
    filled = with_defaults(manifest, rules)
    errors = [error.message for error in jsonschema.Draft202012Validator(rules).iter_errors(filled)]
    return errors + unknown_fields(manifest, rules)


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_an_overlay_gives_one_cluster_with_its_volume_and_policy(folder: Path) -> None:
    kinds = sorted(manifest["kind"] for manifest in build(folder))
    owner = "RayCluster" if folder.name == "cluster" else "RayJob"
    assert kinds == sorted(["NetworkPolicy", "PersistentVolumeClaim", owner])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed: the suite reads the overlays itself")
@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_kubectl_builds_the_same(folder: Path) -> None:
    built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True, timeout=60).stdout

    def by_kind(manifests: list[Manifest]) -> list[Manifest]:
        return sorted(manifests, key=lambda manifest: manifest["kind"])

    assert by_kind(list(yaml.safe_load_all(built))) == by_kind(build(folder))


def test_a_kustomization_that_names_a_missing_file_does_not_build(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    with pytest.raises(FileNotFoundError):
        build(tmp_path)


def test_a_patch_without_a_target_does_not_build(tmp_path: Path) -> None:
    patch = yaml.safe_dump({"kind": "RayJob", "metadata": {"name": "other"}, "$patch": "delete"})
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [], "patches": [{"patch": patch}]}))
    with pytest.raises(KeyError):
        build(tmp_path)


def test_every_file_of_the_base_is_in_its_kustomization() -> None:
    files = {path.name for path in (K8S / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(load(K8S / "base" / "kustomization.yaml")["resources"]) == files


def test_ray_objects_satisfy_the_crd() -> None:
    assert {manifest["kind"] for manifest in ray_objects()} == {"RayCluster", "RayJob"}
    for manifest in ray_objects():
        assert schema_errors(manifest) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"spec.headGroupSpec": None},
        {"spec.authOptions.mode": "password"},
        {"spec.workerGroupSpecs.0.groupName": None},
        {"spec.workerGroupSpecs.0.replica": 2},
        {"spec.workerGroupSpecs.1.template.spec.hostUser": False},
        {"spec.workerGroupSpecs.1.template.spec.containers.0.securityContext.seccompProfile": {}},
    ],
)
def test_a_manifest_outside_the_crd_is_named(changes: dict[str, Any]) -> None:
    assert schema_errors(changed(load(K8S / "base" / "raycluster.yaml"), changes))


@pytest.mark.parametrize("version", KUBERNETES)
def test_core_objects_and_pod_templates_satisfy_kubernetes(version: str) -> None:
    for folder in OVERLAYS:
        for manifest in build(folder):
            if manifest["apiVersion"] != "ray.io/v1":
                kubernetes_validate.validate(manifest, version, strict=True)
                continue
            for name, group in groups(manifest).items():
                whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod(group)}
                kubernetes_validate.validate(whole, version, strict=True)


def test_a_network_policy_with_a_typing_error_is_refused() -> None:
    broken = changed(load(K8S / "base" / "networkpolicy.yaml"), {"spec.egres": []})
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[0], strict=True)


def test_the_job_runs_on_the_same_cluster_as_the_standing_one() -> None:
    assert cluster_spec(load(K8S / "base" / "rayjob.yaml")) == cluster_spec(load(K8S / "base" / "raycluster.yaml"))


def test_the_sandbox_group_reaches_its_own_cluster_and_dns_only() -> None:
    policy = load(K8S / "base" / "networkpolicy.yaml")["spec"]
    ours = {"app.kubernetes.io/part-of": "toolwise"}
    for manifest in ray_objects():
        for group in groups(manifest).values():
            labels = group["template"]["metadata"]["labels"]
            assert ours.items() <= labels.items()
            selected = policy["podSelector"]["matchLabels"].items() <= labels.items()
            assert selected == ("sandbox" in offered(group))
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert policy["ingress"] == [{"from": [{"podSelector": {"matchLabels": ours}}]}]
    to_cluster, to_dns = policy["egress"]
    assert to_cluster == {"to": [{"podSelector": {"matchLabels": ours}}]}
    assert {port["port"] for port in to_dns["ports"]} == {53}
    assert all("ipBlock" not in peer for peer in to_dns["to"])


def test_versions_are_the_projects() -> None:
    [ray] = [name.partition("==")[2] for name in PROJECT["dependencies"] if name.startswith("ray[")]
    for manifest in ray_objects():
        assert cluster_spec(manifest)["rayVersion"] == ray
        images = {container["image"] for group in groups(manifest).values() for container in pod(group)["containers"]}
        assert images == {f"toolwise:{PROJECT['version']}"}


def test_kueue_gets_the_job_through_its_label() -> None:
    job = only(build(K8S / "overlays" / "kueue"), "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert "kueue.x-k8s.io/queue-name" not in only(build(K8S / "overlays" / "job"), "RayJob")["metadata"]["labels"]


def test_the_entrypoint_is_a_command_that_composes() -> None:
    program, command, *overrides = load(K8S / "base" / "rayjob.yaml")["spec"]["entrypoint"].split()
    assert (program, command) == ("toolwise", "train")
    settings = compose("train", Experiment, overrides)
    # The volume is mounted there, and each retry goes on from its checkpoint.
    assert settings.resume and settings.out.startswith("/runs/") and settings.policy.startswith("/runs/")
    with pytest.raises(UsageError):
        compose("train", Experiment, [*overrides, "resumed=true"])


def test_the_cluster_is_as_large_as_the_experiment() -> None:
    job = load(K8S / "base" / "rayjob.yaml")
    settings = compose("train", Experiment, job["spec"]["entrypoint"].split()[2:])
    rollout, learner = settings.rollout, settings.learner
    asked = {
        "gpu": rollout.workers * rollout.gpus_per_worker + learner.workers * learner.gpus_per_worker,
        "sandbox": rollout.sandbox_actors * rollout.sandboxes_per_actor,
    }
    workers = [(group["replicas"], group) for name, group in groups(job).items() if name != "headgroup"]
    gpus = sum(count * int(pod(group)["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0)) for count, group in workers)
    jails = sum(count * offered(group).get("sandbox", 0) for count, group in workers)
    assert (gpus, jails) == (asked["gpu"], asked["sandbox"])


def fitting(group: Manifest, asked: dict[str, float]) -> int:
    """How many actors that ask Ray for `asked` the pods of a group hold."""
    limits = pod(group)["containers"][0]["resources"]["limits"]
    # KubeRay tells Ray of a container's limits.
    has = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))} | offered(group)
    return group["replicas"] * min(int(has.get(name, 0) // amount) for name, amount in asked.items() if amount)


def test_each_actor_finds_a_pod_that_offers_all_it_asks_for() -> None:
    job = load(K8S / "base" / "rayjob.yaml")
    rollout = compose("train", Experiment, job["spec"]["entrypoint"].split()[2:]).rollout
    gpu, sandbox = groups(job)["gpu"], groups(job)["sandbox"]
    assert fitting(gpu, fleet.resources(rollout)) >= rollout.workers
    assert fitting(sandbox, sandboxes.resources(rollout)) >= rollout.sandbox_actors
    assert fitting(gpu, sandboxes.resources(rollout)) == 0
    # A worker with sandboxes of its own would find none beside the GPUs.
    assert fitting(gpu, fleet.resources(replace(rollout, sandbox_actors=0))) == 0


def custom_resources(source: str) -> set[str]:
    """Names of the Ray resources that a module asks for: keys of a `resources=` dictionary, constants of the module resolved."""
    tree = ast.parse(source)
    constants = {
        target.id: str(node.value.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    asked: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "resources" and isinstance(node.value, ast.Dict):
            for key in node.value.keys:
                if isinstance(key, ast.Constant):
                    asked.add(str(key.value))
                elif isinstance(key, ast.Name):
                    asked.add(constants.get(key.id, key.id))
    return asked


def test_the_code_asks_only_for_resources_that_the_manifests_offer() -> None:
    packages = ("sandbox", "envs", "rollout", "learner")
    sources = [path for package in packages for path in (CHECKOUT / package).rglob("*.py")]
    asked = {name for path in sources for name in custom_resources(path.read_text())}
    for manifest in ray_objects():
        available = {name for group in groups(manifest).values() for name in offered(group)}
        assert asked <= available == {"sandbox"}


def test_resources_are_found_in_code() -> None:
    source = 'NAME = "jail"\nA.options(resources={NAME: 1})\n@ray.remote(num_cpus=1, resources={"sandbox": 2})\nclass B: ...\n'
    assert custom_resources(source) == {"jail", "sandbox"}
