"""What kubectl applies from its own side to kinds that Kubernetes has too: real kubectl, every version found.

It makes a strategic merge patch out of the schemas that are served, and what others added to metadata stays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import MERGE, Api
from tests.integration.test_api import FOUND
from tests.kubectl import Kubectl, versions

pytestmark = pytest.mark.etcd

MAP = "/api/v1/namespaces/default/configmaps/c"


@pytest.fixture(params=versions(FOUND, (*FOUND[:1], *FOUND[-1:])))
def kubectl(request: pytest.FixtureRequest, api: Api, tmp_path: Path) -> Kubectl:
    home = tmp_path / "home"
    home.mkdir()
    return Kubectl(request.param, api.pki.kubeconfig, home)


async def applied(kubectl: Kubectl, *finalizers: str, owners: tuple[str, ...] = ()) -> None:
    listed = [{"apiVersion": "v1", "kind": "Node", "name": uid, "uid": uid} for uid in owners]
    metadata = {"name": "c", "finalizers": list(finalizers), "ownerReferences": listed}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}
    await kubectl.good("apply", "-f", "-", stdin=json.dumps(body))


async def found(api: Api) -> tuple[list[str], list[str]]:
    metadata: dict[str, Any] = (await api.call("GET", MAP)).body["metadata"]
    owners = [owner["uid"] for owner in metadata.get("ownerReferences", [])]
    return sorted(metadata.get("finalizers", [])), sorted(owners)


async def test_apply_takes_away_its_own_finalizers_and_owners_and_leaves_those_of_others(
    kubectl: Kubectl, api: Api
) -> None:
    await applied(kubectl, "a.io/x", "b.io/x", owners=("1", "2"))
    more = {"apiVersion": "v1", "kind": "Node", "name": "3", "uid": "3"}
    known = (await api.call("GET", MAP)).body["metadata"]
    theirs = {
        "finalizers": [*known["finalizers"], "other.io/x"],
        "ownerReferences": [*known["ownerReferences"], more],
    }
    assert (await api.call("PATCH", MAP, {"metadata": theirs}, type=MERGE)).status == 200
    await applied(kubectl, "b.io/x", "c.io/x", owners=("2",))
    assert await found(api) == (["b.io/x", "c.io/x", "other.io/x"], ["2", "3"])
    await applied(kubectl, "b.io/x", "c.io/x", owners=("2",))
    assert await found(api) == (["b.io/x", "c.io/x", "other.io/x"], ["2", "3"])
