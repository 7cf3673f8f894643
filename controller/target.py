"""What a Node's spec says of how its host is reached. Pure.

What the controller's machine has to offer for it, and allows, is the driver's to say.
"""

from __future__ import annotations

import msgspec
from msgspec import UnsetType

from controller.plan.snapshot import StoredNode
from drivers.hypervisor import Credentials, Target
from specs.node import NodeSpec
from specs.uri import parse_uri


def target_of(stored: StoredNode) -> Target:
    spec = stored.node.spec
    return Target(stored.node.metadata.name, spec.uri, spec.observe_only is True, credentials_of(spec))


def credentials_of(spec: NodeSpec) -> Credentials:
    if isinstance(spec.connection, UnsetType):
        return Credentials()
    given = msgspec.structs.asdict(spec.connection)
    return Credentials(**{name: path for name, path in given.items() if not isinstance(path, UnsetType)})


def refusal(stored: StoredNode) -> str:
    """Why a Node's own spec forbids using it; "" if it does not."""
    try:
        parse_uri(stored.node.spec.uri)
    except ValueError as error:
        return str(error)
    if is_open_to_all(stored.node.spec) and stored.node.spec.insecure is not True:
        return (
            "tcp without connection.authFile has no authentication: whoever reaches that port is root there; "
            "spec.insecure: true accepts that"
        )
    return ""


def is_open_to_all(spec: NodeSpec) -> bool:
    """A port without authentication: whoever reaches it is root on that host."""
    try:
        return parse_uri(spec.uri).transport == "tcp" and not credentials_of(spec).auth_file
    except ValueError:
        return False
