"""Who may do what, as users meet it: real kubectl and domctl against the real server on a real etcd."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.apiserver import Api
from tests.integration.test_api import DOMAIN, FOUND
from tests.kubectl import Kubectl, versions

pytestmark = pytest.mark.etcd
README = Path(__file__).parents[2] / "README.md"

ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: lookers, namespace: default}
rules:
- {apiGroups: [domctl.io], resources: [domains], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: lookers, namespace: default}
subjects: [{kind: User, name: bob, apiGroup: rbac.authorization.k8s.io}]
roleRef: {kind: Role, name: lookers, apiGroup: rbac.authorization.k8s.io}
"""


@pytest.fixture(params=versions(FOUND, (*FOUND[:1], *FOUND[-1:])))
def kubectl(request: pytest.FixtureRequest, api: Api, tmp_path: Path) -> Kubectl:
    home = tmp_path / "home"
    home.mkdir()
    return Kubectl(request.param, api.pki.kubeconfig, home)


async def soon(kubectl: Kubectl, answer: str, *question: str) -> None:
    """Replicas learn of a binding a moment after it was made."""
    for _ in range(40):
        code, out, err = await kubectl.run("auth", "can-i", *question)
        if out == f"{answer}\n":
            assert code == (0 if answer == "yes" else 1), err
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"can-i {question}: {out} {err}")


async def test_roles_are_applied_shown_and_true_to_what_is_enforced(kubectl: Kubectl) -> None:
    first = await kubectl.good("apply", "-f", "-", stdin=ROLE)
    assert first.splitlines() == [
        "role.rbac.authorization.k8s.io/lookers created",
        "rolebinding.rbac.authorization.k8s.io/lookers created",
    ]
    again = await kubectl.good("apply", "-f", "-", stdin=ROLE)
    assert [line.split()[1] for line in again.splitlines()] == ["unchanged", "unchanged"]
    more = ROLE.replace("[get, list, watch]", "[get, list]")
    changed = await kubectl.good("apply", "-f", "-", stdin=more)
    assert "role.rbac.authorization.k8s.io/lookers configured" in changed
    head, row = (await kubectl.good("get", "rolebinding", "-o", "wide")).splitlines()
    assert head.split() == ["NAME", "ROLE", "AGE", "USERS", "GROUPS", "SERVICEACCOUNTS"]
    assert (row.split()[:2], row.split()[3]) == (["lookers", "Role/lookers"], "bob")
    assert (await kubectl.good("get", "clusterroles")).splitlines()[0].split() == ["NAME", "CREATED", "AT"]
    shown = await kubectl.good("describe", "role", "lookers")
    assert re.search(r"domains.domctl.io +\[] +\[] +\[get list]", shown)
    await soon(kubectl, "yes", "list", "domains", "--as=bob")
    await soon(kubectl, "no", "watch", "domains", "--as=bob")
    assert "No resources found" in (await kubectl.run("get", "domains", "--as=bob"))[2]
    refused = await kubectl.bad("get", "domain", "web-1", "--as=eve")
    assert refused == (
        'Error from server (Forbidden): domains.domctl.io "web-1" is forbidden: User "eve" cannot get '
        'resource "domains" in API group "domctl.io" in the namespace "default"\n'
    )
    assert "cannot create" in (await kubectl.run("apply", "-f", "-", "--as=bob", stdin=DOMAIN))[2]
    assert await kubectl.good("delete", "-f", "-", stdin=ROLE) != ""
    await soon(kubectl, "no", "list", "domains", "--as=bob")


async def test_kubectl_makes_roles_and_bindings_by_its_own_verbs(kubectl: Kubectl) -> None:
    await kubectl.good(
        "create", "clusterrole", "deaders", "--verb=create", "--resource=nodes.domctl.io/confirmdead"
    )
    await kubectl.good("create", "clusterrolebinding", "dead", "--clusterrole=deaders", "--group=ops")
    await kubectl.good("create", "role", "starters", "--verb=get,patch", "--resource=domains")
    await kubectl.good("create", "rolebinding", "starters", "--role=starters", "--user=bob")
    ops = ("--as=ann", "--as-group=ops")
    await soon(kubectl, "yes", "create", "nodes.domctl.io", "--subresource=confirmdead", *ops)
    await soon(kubectl, "no", "create", "nodes", *ops)
    await soon(kubectl, "yes", "patch", "domains", "--as=bob")
    await soon(kubectl, "no", "patch", "domains", "-A", "--as=bob")
    await soon(kubectl, "no", "use", "domains", "--subresource=xml", "--as=bob")
    await soon(kubectl, "yes", "get", "/version", "--as=bob")
    await soon(kubectl, "no", "get", "/metrics", "--as=bob")
    await soon(kubectl, "yes", "*", "*")
    listed = await kubectl.good("auth", "can-i", "--list", "--as=bob")
    assert re.search(r"domains.domctl.io +\[] +\[] +\[get patch]", listed)
    grab = ("create", "rolebinding", "mine", "--clusterrole=cluster-admin", "--user=bob", "--as=bob")
    assert "cannot create resource" in await kubectl.bad(*grab)
    await kubectl.good("create", "rolebinding", "admin", "--clusterrole=admin", "--user=bob")
    await soon(kubectl, "yes", "create", "rolebindings", "--as=bob")
    assert "is attempting to grant RBAC permissions not currently held" in await kubectl.bad(*grab)


async def test_whoami_tells_the_certificate(kubectl: Kubectl) -> None:
    if 0 < kubectl.minor < 27:  # they have no such verb
        return
    code, out, err = await kubectl.run("auth", "whoami")
    if "unknown command" in err:  # Debian's kubectl has another name than its version
        return
    assert code == 0, err
    assert re.search(r"Username +admin", out)
    assert "domctl:admins" in out


def blocks() -> list[str]:
    marked = re.search(r"<!-- rights: .*?-->(.*?)<!-- end of rights -->", README.read_text(), re.DOTALL)
    assert marked, "the README marks where its commands about rights begin and end"
    return re.findall(r"^```sh\n(.*?)^```$", marked[1], re.DOTALL | re.MULTILINE)


async def test_every_command_of_the_readme_about_rights_works(
    kubectl: Kubectl, api: Api, tmp_path: Path
) -> None:
    found = blocks()
    assert len(found) >= 3
    programs = tmp_path / "bin"
    programs.mkdir()
    run = "from controller.cli.main import main; raise SystemExit(main())"
    domctl = programs / "domctl"
    domctl.write_text(f"#!{sys.executable}\nimport sys\n{run}\n")
    domctl.chmod(0o755)
    (programs / "kubectl").symlink_to(kubectl.binary)
    script = "\n".join(["set -eux", "set -o pipefail", *found])
    environ = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(kubectl.home),
        "KUBECONFIG": str(api.pki.kubeconfig),
        "PYTHONPATH": str(README.parent),
    }
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
