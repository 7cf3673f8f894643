"""What users may look for and do not find yet, with the reason: known by name, refused, never ignored.

A field that is silently dropped is worse than one that is refused; so everything that the kinds will have,
or that users of libvirt and Kubernetes expect, stands here until it is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from specs.walker import Later

_ADOPTION = "is not supported yet: existing domains cannot be adopted"
_NOT_YET = "is not supported yet"

DOMAIN_LATER: Final = Later(
    fields=MappingProxyType(
        {
            "spec.uuid": f"{_ADOPTION}; a domain's libvirt UUID is its metadata.uid",
            "spec.libvirtName": f"{_ADOPTION}; a domain's libvirt name is made from its name and namespace",
            "spec.update": f"{_NOT_YET}: changes are applied at the next start",
            "spec.drift": f"{_NOT_YET}: drift is always corrected",
            "spec.reconcile": f"{_NOT_YET}: every domain is reconciled",
            "spec.placement.affinity": f"{_NOT_YET}, use placement.nodeSelector or placement.node",
            "spec.placement.spread": f"{_NOT_YET}, use placement.nodeSelector or placement.node",
            "spec.placement.tolerations": f"{_NOT_YET}: tainted nodes take no new domains",
            "spec.cpu": f"{_NOT_YET}, use a fragment in spec.xml",
            "spec.autostart": "is not a field: the controller starts what should run",
            "spec.replicas": "is not a field of Domain: write one Domain for each",
        }
    ),
    values=MappingProxyType(
        {
            ("spec.type", "openvz"): '"openvz" is not a type here, use vz or lxc',
            ("spec.type", "parallels"): '"parallels" is what libvirt once called vz, use vz',
        }
    ),
)

NODE_LATER: Final = Later(
    fields=MappingProxyType(
        {
            "spec.maintenance": f"{_NOT_YET}, use unschedulable",
            "spec.fencing": f"{_NOT_YET}: only an operator can confirm that a node is dead",
            "spec.labels": "is not a field: labels of a node stand in metadata.labels",
        }
    ),
    values=MappingProxyType(
        {
            (
                "spec.taints.effect",
                "NoExecute",
            ): '"NoExecute" is not supported: nothing is moved off a node by itself',
            (
                "spec.taints.effect",
                "PreferNoSchedule",
            ): '"PreferNoSchedule" is not supported yet, use NoSchedule',
        }
    ),
)

MIGRATION_LATER: Final = Later(fields=MappingProxyType({}), values=MappingProxyType({}))
TOKEN_LATER: Final = MIGRATION_LATER
CORE_LATER: Final = MIGRATION_LATER
RIGHTS_LATER: Final = MIGRATION_LATER

LATER: Final[Mapping[str, Later]] = MappingProxyType(
    {
        "Domain": DOMAIN_LATER,
        "Migration": MIGRATION_LATER,
        "ConfigMap": CORE_LATER,
        "Namespace": CORE_LATER,
        "Node": NODE_LATER,
        "ClusterRole": RIGHTS_LATER,
        "ClusterRoleBinding": RIGHTS_LATER,
        "Role": RIGHTS_LATER,
        "RoleBinding": RIGHTS_LATER,
        "Secret": CORE_LATER,
        "Token": TOKEN_LATER,
    }
)
