"""domctl apply --prune by ApplySet, and the limit on how much one command deletes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import yaml

from controller import keys
from drivers.store import Delete
from tests.clicase import Cli, Ran, applied, domain, eventually, node

PRUNE = "apply --prune --applyset=web -f -"
PARENT = "/api/v1/namespaces/default/configmaps/web"
PART_OF = "applyset.kubernetes.io/part-of"
DOMAINS = "/apis/domctl.io/v1/namespaces/default/domains/"


def several(*names: str) -> str:
    return "---\n".join(domain(name) for name in names)


async def parent(cli: Cli) -> dict[str, Any]:
    found: dict[str, Any] = (await cli.api.call("GET", PARENT)).body
    return found


async def there(cli: Cli) -> list[str]:
    """Domains that are not on their way out."""
    found = await cli("get domains -A -o json")
    items = yaml.safe_load(found.out)["items"]
    return [one["metadata"]["name"] for one in items if "deletionTimestamp" not in one["metadata"]]


async def test_what_has_left_the_files_is_pruned_and_nothing_else(cli: Cli) -> None:
    await applied(cli, domain("by-hand"))
    ran = await cli(PRUNE, stdin=several("a", "b") + "---\n" + node())
    assert ran.code == 0, ran.err
    ran = await cli(PRUNE, stdin=several("b"))
    assert (ran.code, ran.err) == (0, "")
    assert sorted(ran.out.splitlines()) == [
        "domain.domctl.io/a pruned", "domain.domctl.io/b unchanged", "node.domctl.io/hv1 pruned",
    ]  # fmt: skip
    assert await there(cli) == ["b", "by-hand"]


async def test_the_parent_of_a_set_is_not_pruned_from_it(cli: Cli) -> None:
    own = yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"}})
    assert (await cli(PRUNE, stdin=several("a") + "---\n" + own)).code == 0
    uid = (await parent(cli))["metadata"]["uid"]
    assert await cli(PRUNE, stdin=several("a")) == Ran(0, "domain.domctl.io/a unchanged\n", "")
    assert (await parent(cli))["metadata"]["uid"] == uid


async def test_the_parent_says_where_members_are(cli: Cli) -> None:
    other = yaml.safe_load(domain("b"))
    other["metadata"]["namespace"] = "far"
    await cli(PRUNE, stdin=several("a") + "---\n" + yaml.safe_dump(other) + "---\n" + node())
    found = await parent(cli)
    notes = found["metadata"]["annotations"]
    assert notes["applyset.kubernetes.io/contains-group-kinds"] == "Domain.domctl.io,Node.domctl.io"
    assert notes["applyset.kubernetes.io/additional-namespaces"] == "far"
    assert notes["applyset.kubernetes.io/tooling"].startswith("domctl/v")
    # printf web.default.ConfigMap. | openssl dgst -sha256 -binary | base64, for URLs
    own = found["metadata"]["labels"]["applyset.kubernetes.io/id"]
    assert own == "applyset-IYdi3vvhrGq-RtA5r-S9japVmXqDHiKSxhjtQ1RXhsU-v1"
    assert (await cli.body("a"))["metadata"]["labels"][PART_OF] == own
    ran = await cli(PRUNE, stdin=several("a"))
    assert "domain.domctl.io/b pruned" in ran.out
    notes = (await parent(cli))["metadata"]["annotations"]
    assert notes["applyset.kubernetes.io/contains-group-kinds"] == "Domain.domctl.io"
    assert notes["applyset.kubernetes.io/additional-namespaces"] == ""


async def test_pruning_much_is_refused_before_anything_is_sent(cli: Cli) -> None:
    names = [f"d{i}" for i in range(8)]
    await cli(PRUNE, stdin=several(*names))
    ran = await cli(PRUNE, stdin=several("d0", "new"))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: this would delete 7 objects, and 5 may be, so nothing was done:\n")
    assert "  domain.domctl.io/d7 in default\n" in ran.err
    assert ran.err.endswith("hint: --allow-destroy 7 lets all of these go; the guests of domains end\n")
    assert await there(cli) == names
    ran = await cli(f"{PRUNE} --dry-run=server", stdin=several("d0"))
    assert ran.code == 0 and "--allow-destroy 7 is needed" in ran.err
    assert ran.out.count(" pruned (server dry run)") == 7
    assert await there(cli) == names
    assert (await cli(f"{PRUNE} --allow-destroy 7", stdin=several("d0", "new"))).code == 0
    assert await there(cli) == ["d0", "new"]
    assert (await cli(f"{PRUNE} --allow-destroy=0", stdin=several("new"))).code == 1


async def test_nothing_is_pruned_where_not_all_could_be_applied(cli: Cli) -> None:
    mac = [{"name": "n", "network": "default", "mac": "52:54:00:00:00:01"}]
    await applied(cli, domain("other", interfaces=mac))
    await cli(PRUNE, stdin=several("a", "b"))
    ran = await cli(PRUNE, stdin=several("a") + "---\n" + domain("c", interfaces=mac))
    assert ran.code == 1
    assert ran.err.endswith("error: nothing was pruned, since 1 could not be applied\n")
    assert await there(cli) == ["a", "b", "other"]
    ran = await cli(PRUNE, stdin=several("a"))
    assert "domain.domctl.io/b pruned\n" in ran.out


async def test_a_run_that_failed_forgets_no_member(cli: Cli) -> None:
    """The parent names the kinds before their members are there."""
    mac = [{"name": "n", "network": "x", "mac": "52:54:00:00:00:01"}]
    await applied(cli, domain("holds", interfaces=mac))
    await cli(PRUNE, stdin=several("a"))
    assert (await cli(PRUNE, stdin=node() + "---\n" + domain("c", interfaces=mac))).code == 1
    ran = await cli(PRUNE, stdin=several("a"))
    assert "node.domctl.io/hv1 pruned\n" in ran.out


async def test_what_belongs_to_another_set_is_not_taken_in_silence(cli: Cli) -> None:
    await cli(PRUNE, stdin=several("a"))
    ran = await cli("apply --prune --applyset=second -f -", stdin=several("a", "b"))
    assert ran.code == 1
    assert "domain.domctl.io/a belongs to another ApplySet, applyset-" in ran.err
    assert ran.out == "domain.domctl.io/b created\n"
    forced = await cli("apply --prune --applyset=second --force-conflicts -f -", stdin=several("a", "b"))
    assert forced.code == 0
    assert "pruned" not in (await cli(PRUNE, stdin=several("mine"))).out
    assert await there(cli) == ["a", "b", "mine"]


async def test_an_object_that_is_no_set_of_ours_is_not_touched(cli: Cli) -> None:
    plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"}, "data": {"a": "b"}}
    await applied(cli, yaml.safe_dump(plain))
    ran = await cli(PRUNE, stdin=several("a"))
    assert ran.code == 1 and "is there and is no ApplySet" in ran.err
    await cli("delete configmap web")
    await cli(PRUNE, stdin=several("a"))
    theirs = {"metadata": {"annotations": {"applyset.kubernetes.io/tooling": "kubectl/v1.33"}}}
    await cli.api.call("PATCH", PARENT, theirs, type="application/merge-patch+json")
    ran = await cli(PRUNE, stdin=several("b"))
    assert ran.code == 1 and 'belongs to "kubectl/v1.33", not to domctl' in ran.err
    assert await there(cli) == ["a"]


@pytest.mark.parametrize("kind", ["role", "clusterrole", "namespace"])
async def test_other_kinds_can_be_the_parent(cli: Cli, kind: str) -> None:
    command = f"apply --prune --applyset={kind}/one -f -"
    assert (await cli(command, stdin=several("a"))).code == 0
    assert "domain.domctl.io/a pruned\n" in (await cli(command, stdin=several("b"))).out
    assert (await cli(f"get {kind} one -o name")).code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--prune", "--prune and --applyset=[KIND/]NAME go together"),
        ("--applyset=web", "--prune and --applyset=[KIND/]NAME go together"),
        ("--prune --applyset=web --server-side=false", "only works with --server-side"),
        ("--prune --applyset=domain/web", "a Domain cannot be the parent of an ApplySet"),
        ("--prune --applyset=widget/web", 'resource type "widget"'),
        ("--prune --applyset=/web", "--applyset must be [KIND/]NAME"),
    ],
)
async def test_a_set_that_cannot_be_is_refused(cli: Cli, options: str, message: str) -> None:
    ran = await cli(f"apply -f - {options}", stdin=domain())
    assert ran.code == 1 and message in ran.err
    assert not await cli.exists("web")


async def test_apply_with_prune_waits_for_what_goes(cli: Cli) -> None:
    await cli(PRUNE, stdin=several("a", "b"))
    await cli.become("a", "True")
    waiting = asyncio.create_task(cli(f"{PRUNE} --wait --timeout=30s", stdin=several("a")))
    await eventually(lambda: cli.is_terminating("b"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await cli.api.store.txn([], [Delete(keys.object_key("domains", "default", "b"))])
    await cli.become("a", "True")
    ran = await waiting
    assert ran.code == 0, ran.err


async def test_delete_of_many_asks_for_the_number(cli: Cli) -> None:
    names = [f"d{i}" for i in range(6)]
    await applied(cli, *(domain(name) for name in names), domain("other"))
    ran = await cli("delete domains --wait=false", *names)
    assert ran.code == 1 and ran.err.startswith("error: this would delete 6 objects, and 5 may be")
    ran = await cli("delete domains --all --wait=false")
    assert ran.code == 1 and "this would delete 7 objects" in ran.err
    assert len(await there(cli)) == 7
    ran = await cli("delete domains -l app!=other --allow-destroy 6 --wait=false")
    assert ran.code == 0 and ran.out.count(" deleted\n") == 6
    assert await there(cli) == ["other"]
    ran = await cli("delete domains -l app=nobody --wait=false")
    assert (ran.code, ran.err) == (0, "No resources found\n")
    assert (await cli("delete domains")).code == 1
    assert (await cli("delete domains other --all")).code == 1


# diff


async def test_diff_in_markdown_tells_first_what_goes(cli: Cli) -> None:
    await cli(PRUNE, stdin=several("a", "b"))
    changed = "---\n".join([domain("b", vcpus=2), domain("new")])
    ran = await cli("diff -f - --prune --applyset=web -o markdown", stdin=changed)
    assert (ran.code, ran.err) == (1, "")
    lines = ran.out.splitlines()
    assert lines[:3] == ["### domctl diff", "", "**1 to delete**, 1 to change, 1 to create."]
    headings = [line for line in lines if "<summary>" in line]
    assert headings == [
        "<details open><summary>deleted domain.domctl.io/a in default</summary>",
        "<details><summary>changed domain.domctl.io/b in default</summary>",
        "<details><summary>created domain.domctl.io/new in default</summary>",
    ]
    assert "+  vcpus: 2" in lines and "-  name: a" in lines
    assert lines.count("```diff") == lines.count("```") == 3
    assert await there(cli) == ["a", "b"]
    unified = await cli("diff -f - --prune --applyset=web", stdin=changed)
    assert "-  name: a\n" in unified.out and unified.code == 1


async def test_diff_in_markdown_says_that_nothing_differs_and_what_failed(cli: Cli) -> None:
    await applied(cli, domain())
    ran = await cli("diff -f - -o markdown", stdin=domain())
    assert ran == ran.__class__(0, "### domctl diff\n\nNo differences.\n", "")
    await cli("apply --field-manager=other --force-conflicts -f -", stdin=domain(vcpus=2))
    ran = await cli("diff -f - -o markdown", stdin=domain(vcpus=3) + "---\n" + domain("new"))
    assert ran.code == 2
    assert "1 to create." in ran.out and "1 could not be compared:" in ran.out
    assert 'conflict with "other": .spec.vcpus' in ran.out and 'conflict with "other"' in ran.err
    assert (await cli("diff -f - -o html", stdin=domain())).code == 2


async def test_diff_in_markdown_names_what_apply_would_ask_for_and_fits_into_a_comment(cli: Cli) -> None:
    names = [f"d{i:02}" for i in range(30)]
    note = {"description": "`" * 5 + "x" * 4000}
    docs = [yaml.safe_load(domain(name)) for name in names]
    for doc in docs:
        doc["metadata"]["annotations"] = note
    texts = "---\n".join(map(yaml.safe_dump, docs))
    assert (await cli(f"{PRUNE}", stdin=texts)).code == 0
    ran = await cli("diff -f - --prune --applyset=web -o markdown", stdin=domain("only"))
    assert "Applying this needs `--allow-destroy 30`: the guests of domains end.\n" in ran.out
    assert len(ran.out) < 65_000
    assert all(f"deleted domain.domctl.io/{name} in default" in ran.out for name in names)
    assert "deleted domain.domctl.io/d29 in default; its lines do not fit here\n" in ran.out
    assert "\n``````diff\n" in ran.out
