"""Locks: every rule of k8s_rules.py holds for the shipped manifests, and each is broken by a manifest that breaks it.

A rule without a breaking manifest fails the suite, so a checker that always agrees cannot hide here.
"""

from __future__ import annotations

from typing import Any

import pytest
from k8s_manifests import K8S, changed, load
from k8s_rules import CLUSTER_RULES, JOB_RULES, problems

SPEC = {"RayCluster": "spec", "RayJob": "spec.rayClusterSpec"}
FILES = {"RayCluster": "raycluster.yaml", "RayJob": "rayjob.yaml"}
SANDBOX = "workerGroupSpecs.1.template.spec"

# Rule → changes to the cluster's spec, each of which breaks it.
BROKEN_CLUSTERS: dict[str, list[dict[str, Any]]] = {
    "name_is_short": [{"/metadata.name": "toolwise" * 7}],
    "autoscaler_v2_restart_policy": [
        {"enableInTreeAutoscaling": True, "headGroupSpec.template.spec.restartPolicy": "Always"},
        {"enableInTreeAutoscaling": True, "autoscalerOptions.version": "v2", f"{SANDBOX}.restartPolicy": "OnFailure"},
    ],
    "token_auth_version": [{"rayVersion": "2.51.1"}, {"rayVersion": None}],
    "resources_in_one_place": [{"workerGroupSpecs.1.resources": {"sandbox": "16"}}],
    "replicas_within_bounds": [{"workerGroupSpecs.0.maxReplicas": 0}, {"workerGroupSpecs.0.minReplicas": -1}],
    "head_runs_no_work": [{"headGroupSpec.rayStartParams": {}}, {"headGroupSpec.rayStartParams.num-cpus": "4"}],
    "sandbox_is_contained": [
        {"workerGroupSpecs.1.rayStartParams": {}},
        {f"{SANDBOX}.hostUsers": None},
        {f"{SANDBOX}.automountServiceAccountToken": True},
        {f"{SANDBOX}.volumes.0": {"name": "shm", "hostPath": {"path": "/"}}},
        {f"{SANDBOX}.containers.0.securityContext.privileged": True},
        {f"{SANDBOX}.containers.0.securityContext.procMount": None},
        {f"{SANDBOX}.containers.0.securityContext.seccompProfile.type": "RuntimeDefault"},
        {f"{SANDBOX}.containers.0.securityContext.appArmorProfile": None},
        {f"{SANDBOX}.containers.0.securityContext.capabilities.add": ["SYS_ADMIN"]},
        {f"{SANDBOX}.containers.0.resources.limits.nvidia~com/gpu": "1"},
    ],
    "unjailed_pods_are_restricted": [
        {"headGroupSpec.template.spec.securityContext.runAsNonRoot": False},
        {"workerGroupSpecs.0.template.spec.automountServiceAccountToken": None},
        {"workerGroupSpecs.0.template.spec.containers.0.securityContext.allowPrivilegeEscalation": True},
    ],
    "wandb_key_on_the_driver_only": [
        {"headGroupSpec.template.spec.containers.0.env": [{"name": "WANDB_API_KEY", "value": "0123"}]},
        {f"{SANDBOX}.containers.0.env": [{"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]},
        {"workerGroupSpecs.0.template.spec.containers.0.envFrom": [{"secretRef": {"name": "toolwise-wandb"}}]},
    ],
}

# Rule → changes to the job, each of which breaks it.
BROKEN_JOBS: dict[str, list[dict[str, Any]]] = {
    "ttl_needs_shutdown": [
        {"/spec.shutdownAfterJobFinishes": False},
        {"/spec.shutdownAfterJobFinishes": None, "/spec.ttlSecondsAfterFinished": None, "/spec.suspend": True},
    ],
    "backoff_needs_own_cluster": [
        {"/spec.rayClusterSpec": None, "/spec.clusterSelector": {"ray.io/cluster": "toolwise"}},
        {"/spec.submissionMode": "InteractiveMode"},
    ],
    "deletion_rules_replace_shutdown": [
        {"/spec.deletionStrategy.deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]},
    ],
    "sidecar_mode": [
        {"/spec.submissionMode": "SidecarMode", "/spec.submitterConfig.backoffLimit": 1},
        {"/spec.submissionMode": "SidecarMode", "/spec.submitterPodTemplate.spec.containers": [{"name": "submitter"}]},
        {"/spec.submissionMode": "SidecarMode", "headGroupSpec.template.spec.restartPolicy": "Always"},
        {"/spec.submissionMode": "SidecarMode", "/spec.clusterSelector": {"ray.io/cluster": "toolwise"}},
    ],
    "job_has_a_cluster": [{"/spec.rayClusterSpec": None}],
    "deadlines_are_positive": [{"/spec.activeDeadlineSeconds": 0}, {"/spec.preRunningDeadlineSeconds": -1}],
    "job_recovers": [
        {"/spec.ttlSecondsAfterFinished": 60},
        {"/spec.backoffLimit": 0},
        {"/spec.backoffLimit": 5},
        {"/spec.entrypoint": "toolwise train experiment=qwen2_5_vl_7b"},
        {"/spec.activeDeadlineSeconds": None},
        {"/spec.preRunningDeadlineSeconds": None},
    ],
}

CASES = [
    (kind, rule, changes)
    for kind, table in (("RayCluster", BROKEN_CLUSTERS), ("RayJob", BROKEN_CLUSTERS), ("RayJob", BROKEN_JOBS))
    for rule, broken in table.items()
    for changes in broken
]


@pytest.mark.parametrize("kind", FILES)
def test_the_shipped_manifest_breaks_no_rule(kind: str) -> None:
    assert problems(load(K8S / "base" / FILES[kind])) == []


def test_every_rule_has_a_manifest_that_breaks_it() -> None:
    assert set(BROKEN_CLUSTERS) == set(CLUSTER_RULES)
    assert set(BROKEN_JOBS) == set(JOB_RULES)


@pytest.mark.parametrize(("kind", "rule", "changes"), CASES, ids=[f"{kind}-{rule}-{i}" for i, (kind, rule, _) in enumerate(CASES)])
def test_a_broken_manifest_is_named(kind: str, rule: str, changes: dict[str, Any]) -> None:
    absolute = {path.removeprefix("/") if path[0] == "/" else f"{SPEC[kind]}.{path}": value for path, value in changes.items()}
    manifest = changed(load(K8S / "base" / FILES[kind]), absolute)
    assert (CLUSTER_RULES | JOB_RULES)[rule](manifest) is not None
