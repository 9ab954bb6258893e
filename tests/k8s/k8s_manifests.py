"""Reads what k8s/ ships: files, Kustomize overlays, KubeRay's schemas, the Dockerfile."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
K8S = CHECKOUT / "k8s"
OVERLAYS = sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))

Manifest = dict[str, Any]


def load(path: Path) -> Manifest:
    """The one document of a YAML file."""
    return yaml.safe_load(path.read_text())


def build(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize` makes of a folder, for the features that k8s/ uses: resources, strategic patches of maps, images.

    Raises FileNotFoundError for a resource that is not there, KeyError for a patch without a target, ValueError for a field that
    this reader does not know.
    """
    kustomization = load(folder / "kustomization.yaml")
    unknown = set(kustomization) - {"apiVersion", "kind", "resources", "patches", "images"}
    if unknown:
        raise ValueError(f"{folder}: this reader does not know {sorted(unknown)}")
    manifests: list[Manifest] = []
    for name in kustomization["resources"]:
        path = folder / name
        manifests += build(path.resolve()) if path.is_dir() else [load(path)]
    by_id = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    for entry in kustomization.get("patches", []):
        patch = yaml.safe_load(entry["patch"])
        target = (patch["kind"], patch["metadata"]["name"])
        if patch.pop("$patch", None) == "delete":
            del by_id[target]
        else:
            by_id[target] = merged(by_id[target], patch)
    return [with_images(manifest, kustomization.get("images", [])) for manifest in by_id.values()]


def merged(base: Any, patch: Any) -> Any:
    """`patch` laid over `base`, key by key."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: merged(base.get(key), value) for key, value in patch.items()}
    return patch


def with_images(node: Any, images: list[dict[str, str]]) -> Any:
    """`node` with the images renamed as a kustomization's `images` say."""
    if isinstance(node, list):
        return [with_images(item, images) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: with_images(value, images) for key, value in node.items()}
    for image in images:
        name, _, tag = str(node.get("image", "")).partition(":")
        if name == image["name"]:
            node["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
    return node


def changed(manifest: Manifest, changes: dict[str, Any]) -> Manifest:
    """A copy with values set at dotted paths (`spec.workerGroupSpecs.0.groupName`); the value None removes the key."""
    manifest = copy.deepcopy(manifest)
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part.replace("~", ".") for part in path.split(".")]
        node: Any = manifest
        for part in parents:
            node = node[part] if isinstance(part, int) else node.setdefault(part, {})
        if value is None:
            node.pop(last, None) if isinstance(node, dict) else node.pop(last)
        else:
            node[last] = value
    return manifest


def schema(kind: str) -> dict[str, Any]:
    """The schema of a KubeRay kind, as its CRD states it."""
    return json.loads((Path(__file__).parent / "schemas" / f"{kind}.v1.json").read_text())["schema"]


def with_defaults(value: Any, rules: dict[str, Any]) -> Any:
    """`value` with the schema's defaults filled in, as the API server does before it validates."""
    if isinstance(value, dict):
        properties = rules.get("properties", {})
        filled = {key: copy.deepcopy(rule["default"]) for key, rule in properties.items() if "default" in rule} | value
        return {key: with_defaults(item, properties.get(key) or additional(rules)) for key, item in filled.items()}
    if isinstance(value, list):
        return [with_defaults(item, rules.get("items", {})) for item in value]
    return value


def unknown_fields(value: Any, rules: dict[str, Any], path: str = "") -> list[str]:
    """Fields the schema does not name. The API server prunes them silently, so a typing error would pass the schema."""
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in unknown_fields(item, rules.get("items", {}), f"{path}[{i}]")]
    if not isinstance(value, dict) or not ("properties" in rules or additional(rules)):
        return []
    found = []
    for key, item in value.items():
        rule = rules.get("properties", {}).get(key) or additional(rules)
        found += unknown_fields(item, rule, f"{path}.{key}") if rule else [f"{path}.{key}".lstrip(".")]
    return found


def additional(rules: dict[str, Any]) -> dict[str, Any]:
    """The schema of keys that `properties` does not name; empty if there is none."""
    rule = rules.get("additionalProperties", {})
    return rule if isinstance(rule, dict) else {}


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, argument) pairs, continuation lines joined and comments dropped."""
    lines = [line for line in (K8S / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(instruction, argument) for instruction, argument in pairs]


def apt_packages(text: str) -> set[str]:
    """The packages of every `apt-get install` in a text; make's variables are left out."""
    commands = re.findall(r"apt(?:-get)? install([^&|;\n`'\"}]*)", re.sub(r"\\\n\s*", " ", text))
    return {word for command in commands for word in command.split() if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", word)}
