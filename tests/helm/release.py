"""What the chart makes of some values: rendered by Helm's own engine, read like a cluster reads it."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gateway.config import Config, load

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "spillway"
EXAMPLES = sorted((ROOT / "helm" / "examples").glob("*.yaml"))
MOUNTED_AT = "/etc/spillway"

Manifest = dict[str, Any]

# The smallest values there are: everything else is the chart's default.
SMALLEST: Manifest = {
    "config": {"clusters": [{"name": "here", "limit": 8, "backends": ["http://10.0.0.1:8000"]}]}
}


def values(base: Mapping[str, Any] = SMALLEST, /, **more: Any) -> Manifest:
    """`base` with sections laid over it: values(autoscaling={"enabled": True})."""
    laid = dict(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(laid.get(key), dict)
        laid[key] = values(laid[key], **value) if both else value
    return laid


class Pod(NamedTuple):
    """A pod, or the template of pods; `kind` is that of the manifest it stands in."""

    kind: str
    name: str
    labels: Mapping[str, str]
    spec: Manifest

    @property
    def container(self) -> Manifest:
        (container,) = self.spec["containers"]
        return container


class Release:
    """All manifests of one render, and its notes."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.notes = next(text for path, text in texts.items() if path.endswith("NOTES.txt"))
        self.manifests: list[Manifest] = [
            manifest
            for path, text in sorted(texts.items())
            if not path.endswith("NOTES.txt")
            for manifest in yaml.load_all(text, Loader=_OneKeyEach)
            if manifest
        ]

    def all(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str, name: str = "spillway") -> Manifest:
        (found,) = (manifest for manifest in self.all(kind) if manifest["metadata"]["name"] == name)
        return found

    def pods(self) -> Iterator[Pod]:
        for manifest in self.manifests:
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            if kind == "Pod":
                yield Pod(kind, name, manifest["metadata"]["labels"], manifest["spec"])
            elif kind in ("Deployment", "Job"):
                template = manifest["spec"]["template"]
                yield Pod(kind, name, template["metadata"]["labels"], template["spec"])

    def pod(self, kind: str, name: str) -> Pod:
        (found,) = (pod for pod in self.pods() if (pod.kind, pod.name) == (kind, name))
        return found

    @property
    def gateway(self) -> Pod:
        return self.pod("Deployment", "spillway")

    def mounted(self, pod: Pod, folder: Path, given: Mapping[str, Mapping[str, bytes]]) -> Path:
        """Lays a pod's files below `folder` as kubelet does; `given` are the Secrets of the user's.

        Returns the configuration, in which paths lead to `folder`.
        """
        sources = {volume["name"]: volume for volume in pod.spec["volumes"]}
        for mount in pod.container["volumeMounts"]:
            if mount["mountPath"].startswith(MOUNTED_AT):
                files = self._files(sources[mount["name"]], given)
                here = {
                    name: content.replace(MOUNTED_AT.encode(), str(folder).encode())
                    for name, content in files.items()
                }
                project(folder / mount["mountPath"].removeprefix(MOUNTED_AT + "/"), here)
        return folder / "config" / "config.yaml"

    def config(self, folder: Path, given: Mapping[str, Mapping[str, bytes]] | None = None) -> Config:
        """What the gateway makes of it. Raises ConfigError."""
        return load(self.mounted(self.gateway, folder, given or {}))

    def _files(self, volume: Manifest, given: Mapping[str, Mapping[str, bytes]]) -> Mapping[str, bytes]:
        if "configMap" in volume:
            data = self.one("ConfigMap", volume["configMap"]["name"])["data"]
            return {name: text.encode() for name, text in data.items()}
        secret = volume["secret"]
        data = given[secret["secretName"]] if secret["secretName"] in given else self._made(secret)
        if "items" not in secret:
            return data
        return {item["path"]: data[item["key"]] for item in secret["items"]}

    def _made(self, secret: Manifest) -> dict[str, bytes]:
        manifest = self.one("Secret", secret["secretName"])
        made = {name: b64decode(text) for name, text in manifest.get("data", {}).items()}
        return made | {name: text.encode() for name, text in manifest.get("stringData", {}).items()}


def project(place: Path, files: Mapping[str, bytes]) -> None:
    """As kubelet writes a ConfigMap or a Secret, the first time and again: all files change at once."""
    place.mkdir(parents=True, exist_ok=True)
    version = place / f"..{len(list(place.iterdir()))}"
    version.mkdir()
    for name, content in files.items():
        (version / name).write_bytes(content)
        if not (place / name).is_symlink():
            (place / name).symlink_to(Path("..data", name))
    (place / "..data_tmp").symlink_to(version.name)
    (place / "..data_tmp").replace(place / "..data")


class _OneKeyEach(yaml.CSafeLoader):
    """A key that stands twice is an error, as it is for Kubernetes."""


def _mapping(loader: yaml.CSafeLoader, node: yaml.MappingNode) -> Manifest:
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key stands twice in line {node.start_mark.line + 1}: {keys}"
    return {
        key: loader.construct_object(value, deep=True)
        for key, (_, value) in zip(keys, node.value, strict=True)
    }


_OneKeyEach.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
