"""Where everything stands in etcd. All keys lie under one prefix; nothing else knows their form.

/domctl/cluster                     this cluster's id, written once
/domctl/leader                      who leads; its create revision is the fence token (leased)
/domctl/last-leader                 who led last, and whether it resigned
/domctl/heartbeat                   a random value at every renewal: tells a restored store
/domctl/objects/<plural>/<ns>/<name>   objects, as users wrote them, with status
/domctl/objects/<plural>/<name>        cluster-scoped objects (nodes)
/domctl/assignments/<uuid>          the controller's promise for one domain (leader only)
/domctl/uuids/<uuid>, /domctl/macs/<mac>   uniqueness in the cluster, each naming its owner
/domctl/identities/<identity>       a host's identity, pinned to one Node at first contact
/domctl/quarantine/<node>           a node that came back after it was taken for dead
/domctl/decisions/...               what operators decided; written by the API, read by the leader
"""

from __future__ import annotations

ROOT = "/domctl/"
CLUSTER = ROOT + "cluster"
LEADER = ROOT + "leader"
LAST_LEADER = ROOT + "last-leader"
HEARTBEAT = ROOT + "heartbeat"
OBJECTS = ROOT + "objects/"
ASSIGNMENTS = ROOT + "assignments/"
UUIDS = ROOT + "uuids/"
MACS = ROOT + "macs/"
IDENTITIES = ROOT + "identities/"
QUARANTINE = ROOT + "quarantine/"
DECISIONS = ROOT + "decisions/"
CONFIRMED_DEAD = DECISIONS + "confirmed-dead/"
RESOLUTIONS = DECISIONS + "resolutions/"
STORE_ACK = DECISIONS + "store-ack"


def object_prefix(plural: str, namespace: str = "") -> str:
    return f"{OBJECTS}{plural}/{namespace}/" if namespace else f"{OBJECTS}{plural}/"


def object_key(plural: str, namespace: str, name: str) -> str:
    return f"{object_prefix(plural, namespace)}{name}"


def assignment(uuid: str) -> str:
    return ASSIGNMENTS + uuid


def mac(address: str) -> str:
    return MACS + address


def uuid_owner(uuid: str) -> str:
    return UUIDS + uuid


def identity(host_uuid: str, driver: str, mode: str) -> str:
    return f"{IDENTITIES}{host_uuid}:{driver}:{mode}"


def quarantine(node: str) -> str:
    return QUARANTINE + node


def confirmed_dead(node: str) -> str:
    return CONFIRMED_DEAD + node


def resolution(uuid: str) -> str:
    return RESOLUTIONS + uuid
