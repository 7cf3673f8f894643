"""Sets of applied objects, for `apply --prune`: what left the files is deleted, and nothing else ever is.

Kubernetes' ApplySet (KEP-3659): a parent object names the set and says which kinds and namespaces it has
members in; each member carries the set's id as a label. Only what carries it can be pruned. Guaranteed: what
will be pruned is found, counted and refused if it is too much before anything is changed; the parent says
where members may be before they are there, and is narrowed only after all is done, so that one that was
interrupted forgets none; members go by their uid, and only if they still carry the label; a set of another
tool is not touched. An object of another set is not taken over unless forced.

The parent is a ConfigMap by default, so that whoever may write domains may keep sets; kubectl takes Secrets.
"""

from __future__ import annotations

import base64
import hashlib
import sys

from controller.cli import destroying, lists
from controller.cli.client import APPLY_PATCH, Client
from controller.cli.destroying import Doomed
from controller.cli.errors import CliError, StatusError, UsageError, printable, rendered
from controller.cli.resources import Resource, find, of_group_kind
from controller.cli.serverside import PART_OF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from controller.cli.manifests import Manifest

    Object = dict[str, Any]
    Placed = Sequence[tuple[Manifest, str]]

ID = "applyset.kubernetes.io/id"
TOOLING = "applyset.kubernetes.io/tooling"
GROUP_KINDS = "applyset.kubernetes.io/contains-group-kinds"
NAMESPACES = "applyset.kubernetes.io/additional-namespaces"
FIELD_MANAGER = "domctl-applyset"
PARENTS = ("Role", "ClusterRole", "ConfigMap", "Secret", "Namespace")
_TOOL = "domctl"


class ApplySet:
    """One set: its parent, its id, and where it has members. Raises CliError from every method."""

    def __init__(self, client: Client, resource: Resource, namespace: str, name: str) -> None:
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._name = name
        self._kinds: set[str] = set()
        self._namespaces: set[str] = set()
        self._load()

    @property
    def id(self) -> str:
        parent = f"{self._name}.{self._namespace}.{self._resource.kind}.{self._resource.group}"
        digest = base64.urlsafe_b64encode(hashlib.sha256(parent.encode()).digest()).rstrip(b"=")
        return f"applyset-{digest.decode()}-v1"

    @property
    def label(self) -> str:
        return f"{self._resource.word}/{printable(self._name)}"

    def _load(self) -> None:
        """What the parent says; nothing where there is none yet."""
        try:
            parent = self._client.get(self._resource.path(self._namespace, self._name))
        except StatusError as error:
            if error.is_not_found:
                return
            raise
        meta = parent["metadata"]
        labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
        if labels.get(ID) != self.id:
            raise CliError(
                f"{self.label} is there and is no ApplySet: its label {ID} must be {self.id}",
                hint="choose another name with --applyset",
            )
        tool = str(annotations.get(TOOLING) or "")
        if tool.partition("/")[0] != _TOOL:
            raise CliError(f'the ApplySet {self.label} belongs to "{printable(tool)}", not to {_TOOL}')
        self._kinds = _parts(annotations.get(GROUP_KINDS))
        self._namespaces = _parts(annotations.get(NAMESPACES))

    def adopt(self, placed: Placed) -> None:
        """Let what is applied carry the set's label."""
        for one, _ in placed:
            meta = dict(one.raw["metadata"])
            labels = dict(meta.get("labels") or {})
            if labels.get(PART_OF, self.id) != self.id:
                raise CliError(f"{one.place}: {one.label} names another ApplySet in its label {PART_OF}")
            one.raw = {**one.raw, "metadata": {**meta, "labels": {**labels, PART_OF: self.id}}}

    def leaving(self, placed: Placed) -> list[Doomed]:
        """Members that the files do not name any more. The parent is none, whatever label it carries: the set
        would forget where its members are, and what is in a namespace would go with it."""
        named = {(one.resource.kind, namespace, one.name) for one, namespace in placed}
        named.add((self._resource.kind, self._namespace, self._name))
        found = self._members(placed)
        return [one for one in found if (one.resource.kind, one.namespace, one.name) not in named]

    def _members(self, placed: Placed) -> list[Doomed]:
        selector = [("labelSelector", f"{PART_OF}={self.id}")]
        kinds, namespaces = self._scope(placed)
        found: list[Doomed] = []
        for kind in sorted(self._kinds | kinds):
            resource = of_group_kind(self._client, *kind.partition(".")[::2])
            inside = sorted(self._namespaces | namespaces | {self._namespace} - {""})
            for namespace in inside if resource.namespaced else [""]:
                listed = lists.read(self._client, resource.path(namespace), selector)
                for item in lists.items(listed):
                    meta = item["metadata"]
                    if (meta.get("labels") or {}).get(PART_OF) == self.id:
                        found.append(Doomed(resource, namespace, meta["name"], str(meta.get("uid") or "")))
        return found

    def widen(self, placed: Placed) -> None:
        """Say where members are and will be, before they are."""
        kinds, namespaces = self._scope(placed)
        self._write(self._kinds | kinds, self._namespaces | namespaces)

    def narrow(self, placed: Placed) -> None:
        """Say where members are, after all others are gone."""
        self._write(*self._scope(placed))

    def prune(self, leaving: Sequence[Doomed], placed: Placed, dry_run: str) -> tuple[list[Doomed], int]:
        """Delete those of `leaving` that are still members; which were, and how many could not be."""
        still = {one.uid for one in self._members(placed)}
        gone: list[Doomed] = []
        failed = 0
        for one in leaving:
            if one.uid not in still:
                continue
            try:
                destroying.delete(self._client, one, dry_run)
            except StatusError as error:
                if not error.is_not_found:
                    sys.stdout.flush()
                    sys.stderr.write(rendered(error.while_(f"error when pruning {one.label}")))
                    failed += 1
                continue
            gone.append(one)
        return gone, failed

    def _scope(self, placed: Placed) -> tuple[set[str], set[str]]:
        kinds = {f"{one.resource.kind}.{one.resource.group}".rstrip(".") for one, _ in placed}
        return kinds, {namespace for _, namespace in placed if namespace and namespace != self._namespace}

    def _write(self, kinds: set[str], namespaces: set[str]) -> None:
        resource = self._resource
        annotations = {
            TOOLING: f"{_TOOL}/v1",
            GROUP_KINDS: ",".join(sorted(kinds)),
            NAMESPACES: ",".join(sorted(namespaces)),
        }
        metadata: Object = {"name": self._name, "labels": {ID: self.id}, "annotations": annotations}
        if self._namespace:
            metadata["namespace"] = self._namespace
        api = f"{resource.group}/{resource.version}" if resource.group else resource.version
        body = {"apiVersion": api, "kind": resource.kind, "metadata": metadata}
        query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
        path = resource.path(self._namespace, self._name)
        self._client.call("PATCH", path, query, body, content_type=APPLY_PATCH)


def named(client: Client, text: str) -> ApplySet:
    """`--applyset=[KIND/]NAME`."""
    kind, slash, name = text.rpartition("/")
    if not name or (slash and not kind):
        raise UsageError(f'--applyset must be [KIND/]NAME, is "{text}"')
    resource = find(client, kind or "configmap")
    if resource.kind not in PARENTS:
        allowed = ", ".join(PARENTS)
        raise UsageError(f"a {resource.kind} cannot be the parent of an ApplySet, but one of: {allowed}")
    return ApplySet(client, resource, client.namespace if resource.namespaced else "", name)


def _parts(text: object) -> set[str]:
    return {part.strip() for part in str(text or "").split(",") if part.strip()}
