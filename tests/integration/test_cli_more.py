"""-f of verbs that name objects, categories, patch, cordon, drain and small verbs, beside kubectl's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import yaml

from tests.clicase import Cli, applied, domain, eventually, node

MERGE = "application/merge-patch+json"
OTHER = "other"


def placed(namespace: str, name: str = "web", **spec: Any) -> str:
    value = yaml.safe_load(domain(name, **spec))
    value["metadata"]["namespace"] = namespace
    return yaml.safe_dump(value)


# -f


@pytest.mark.parametrize(
    "words",
    [
        "get -o name",
        "get -o jsonpath={.items[*].metadata.namespace}",
        "label x=y",
        "annotate x=y",
    ],
)
async def test_what_a_file_names_is_meant_as_kubectl_means_it(cli: Cli, words: str) -> None:
    texts = [placed("one"), placed("two"), node()]
    await applied(cli, *texts)
    path = cli.file("---\n".join(texts))
    verb, _, rest = words.partition(" ")
    ours = await cli(f"{verb} -f", path, *rest.split())
    await cli(f"{verb} -f", path, "x-") if "=y" in rest else None
    theirs = await cli.kubectl(f"{verb} -f {path} {rest}")
    assert (ours.code, ours.out) == (theirs.code, theirs.out)


async def test_describe_wait_scale_and_edit_take_files(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    await applied(cli, placed("one"), placed("two"))
    path = cli.file(placed("two"))
    assert "Namespace:    two" in (await cli("describe -f", path)).out
    waited = await cli("wait --for=jsonpath={.spec.memory}=64Mi --timeout=2s -f", path)
    assert (waited.code, waited.out) == (0, "domain.domctl.io/web condition met\n")
    assert "it has no replicas" in (await cli("scale --replicas=2 -f", path)).err
    monkeypatch.setenv("KUBE_EDITOR", "sed -i s/64Mi/96Mi/")
    assert (await cli("edit -f", path)).out == "domain.domctl.io/web edited\n"
    assert (await cli.body("web", namespace="two"))["spec"]["memory"] == "96Mi"
    assert (await cli.body("web", namespace="one"))["spec"]["memory"] == "64Mi"


async def test_a_file_and_names_do_not_go_together(cli: Cli) -> None:
    path = cli.file(domain())
    for words in (
        "get domains web",
        "describe domain",
        "wait domain/web --for=create",
        "label domain web a=b",
    ):
        ran = await cli(f"{words} -f", path)
        assert (ran.code, "no other arguments are allowed" in ran.err) == (1, True), words


# types


async def test_a_category_is_all_its_types_and_all_has_no_domains(cli: Cli) -> None:
    await applied(cli, domain(), node())
    ran = await cli("get domctl -o name")
    assert ran.out.splitlines() == ["domain.domctl.io/web", "node.domctl.io/hv1"]
    assert "domain.domctl.io" not in (await cli("get all -o name")).out
    assert "the server doesn't have a resource type" in (await cli("get nonsense")).err


async def test_a_kind_of_the_core_group_is_named_as_kubectl_names_it(cli: Cli) -> None:
    await applied(cli, node())
    ours, theirs = await cli("get node.v1. -o name"), await cli.kubectl("get node.v1. -o name")
    assert (ours.code, ours.out) == (0, "node/hv1\n") == (theirs.code, theirs.out)


async def test_describe_takes_the_beginning_of_names(cli: Cli) -> None:
    await applied(cli, domain("web-1"), domain("web-2"), domain("db"))
    ran = await cli("describe domain web")
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("Name:")] == [
        "web-1",
        "web-2",
    ]
    assert (await cli("describe domain nope")).code == 1


@pytest.mark.parametrize(
    "words",
    ["api-versions", "api-resources --verbs=list,create", "api-resources --categories=domctl",
     "explain node --api-version=v1", "explain domain --api-version=domctl.io/v1",
     "auth whoami -o json", "auth whoami -o yaml"],
)  # fmt: skip
async def test_small_verbs_print_what_kubectl_prints(cli: Cli, words: str) -> None:
    ours, theirs = await cli(words), await cli.kubectl(words)
    if words.endswith(("json", "yaml")):
        read = yaml.safe_load
        said, meant = read(ours.out), read(theirs.out)
        assert (said["kind"], said["status"]) == (meant["kind"], meant["status"])
    else:
        assert (ours.code, ours.out) == (theirs.code, theirs.out)


# patch


PATCHES = (
    """-p {"spec":{"vcpus":4}} --type=merge""",
    """-p {"spec":{"vcpus":4}} --type=merge""",
    """--type=json -p [{"op":"replace","path":"/spec/vcpus","value":8}]""",
    """--type=merge -p {"spec":{"vcpus":null}} -o name""",
    """--type=json -p [{"op":"remove","path":"/spec/nothing"}]""",
)


async def test_patch_says_and_does_what_kubectls_does(cli: Cli) -> None:
    outcomes = []
    for run in (cli, cli.kubectl):
        await applied(cli, domain())
        said = [await run(f"patch domain web {words}") for words in PATCHES]
        outcomes.append(([(one.code, one.out) for one in said], (await cli.body("web"))["spec"]))
        await cli("patch domain web --type=merge -p", '{"spec":{"vcpus":null}}')
    (ours, spec), (theirs, spec_by_them) = outcomes
    differing = [(c, o, t) for c, o, t in zip(PATCHES, ours, theirs, strict=True) if o != t]
    assert not differing, "\n".join(map(repr, differing))
    assert spec == spec_by_them


@pytest.mark.parametrize("form", ["wide", "custom-columns=N:.metadata.name"])
@pytest.mark.parametrize("command", ['patch domain web -p {"spec":{"vcpus":2}}', "apply -f -"])
async def test_a_form_in_which_changes_cannot_be_told_is_refused_before_one_is_made(
    cli: Cli, command: str, form: str
) -> None:
    await applied(cli, domain(vcpus=1))
    ran = await cli(f"{command} -o {form}", stdin=domain(vcpus=2))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"error: --output {form} is not available here")
    assert (await cli.body("web"))["spec"]["vcpus"] == 1


@pytest.mark.parametrize("command", ["patch domain a b -p {}", "apply -f -"])
async def test_what_was_changed_is_told_as_one_yaml_document_for_each(cli: Cli, command: str) -> None:
    both = "---\n".join((domain("a"), domain("b")))
    await applied(cli, both)
    ran = await cli(f"{command} -o yaml", stdin=both)
    assert ran.code == 0, ran.err
    assert [one["metadata"]["name"] for one in yaml.safe_load_all(ran.out)] == ["a", "b"]


async def test_events_in_custom_columns_are_refused_with_what_to_do(cli: Cli) -> None:
    ran = await cli("events -o custom-columns=N:.reason")
    assert (ran.code, ran.out) == (1, "")
    assert "get events -o custom-columns" in ran.err


async def test_a_dry_run_of_a_patch_changes_nothing_and_says_so(cli: Cli) -> None:
    await applied(cli, domain())
    ran = await cli('patch domain web --dry-run=server -p {"spec":{"vcpus":2}}')
    assert (ran.code, ran.out) == (0, "domain.domctl.io/web patched (server dry run)\n")
    assert "vcpus" not in (await cli.body("web"))["spec"]


async def test_a_patch_that_cannot_be_one_is_refused_before_a_server_is_asked(cli: Cli) -> None:
    for words, said in (
        ("patch domain web", "must specify --patch or --patch-file"),
        ("patch domain web -p {a", "unable to parse"),
        ("patch domain web -p {} --type=odd", "--type must be one of"),
        ("patch domain -p {}", "no name was specified"),
    ):
        ran = await cli(words)
        assert (ran.code, said in ran.err) == (1, True), (words, ran)


# cordon, uncordon, drain


async def test_nodes_are_cordoned_and_uncordoned(cli: Cli) -> None:
    await applied(cli, node("hv1"), node("hv2"))
    assert (
        await cli("cordon hv1 node/hv2")
    ).out == "node.domctl.io/hv1 cordoned\nnode.domctl.io/hv2 cordoned\n"
    assert (await cli("cordon hv1")).out == "node.domctl.io/hv1 already cordoned\n"
    assert (await cli.body("hv1", "nodes"))["spec"]["unschedulable"] is True
    assert (await cli("uncordon hv1 --dry-run=client")).out == "node.domctl.io/hv1 uncordoned (dry run)\n"
    assert (await cli("uncordon hv1")).out == "node.domctl.io/hv1 uncordoned\n"
    assert not (await cli.body("hv1", "nodes"))["spec"].get("unschedulable")
    assert (await cli("cordon nope")).code == 1
    assert (await cli("cordon")).code == 1


async def migrations(cli: Cli) -> list[dict[str, Any]]:
    found = (await cli.api.call("GET", "/apis/domctl.io/v1/migrations")).body["items"]
    return sorted(found, key=lambda one: (one["metadata"]["namespace"], one["spec"]["domain"]))


async def test_drain_asks_each_domain_of_the_node_to_move_and_waits(cli: Cli) -> None:
    await applied(cli, node("hv1"), domain("a"), domain("b"), domain(OTHER), placed("two", "c"))
    for name, where, host in (
        ("a", "default", "1"),
        ("b", "default", "1"),
        ("c", "two", "1"),
        (OTHER, "default", "2"),
    ):
        path = f"/apis/domctl.io/v1/namespaces/{where}/domains/{name}/status"
        await cli.api.call("PATCH", path, {"status": {"node": f"hv{host}"}}, type=MERGE)
    assert (await cli("migrate b")).code == 0
    draining = asyncio.create_task(cli("drain hv1 --timeout=20s --ignore-daemonsets"))
    await eventually(lambda: three(cli))
    found = await migrations(cli)
    assert [(one["metadata"]["namespace"], one["spec"]["domain"]) for one in found] == [
        ("default", "a"), ("default", "b"), ("two", "c"),
    ]  # fmt: skip
    for one in found:
        meta = one["metadata"]
        path = f"/apis/domctl.io/v1/namespaces/{meta['namespace']}/migrations/{meta['name']}"
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Succeeded",
            "message": "",
            "observedGeneration": 1,
        }
        status = {
            "phase": "Succeeded",
            "conditions": [{**ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        }
        done = await cli.api.call("PATCH", f"{path}/status", {"status": status}, type=MERGE)
        assert done.status == 200, done.body
    ran = await draining
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("node.domctl.io/hv1 cordoned\n") and ran.out.endswith(
        "node.domctl.io/hv1 drained\n"
    )
    assert ran.out.count("condition met") == 3


async def three(cli: Cli) -> bool:
    return len(await migrations(cli)) == 3
