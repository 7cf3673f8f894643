"""domctl apply, diff and validate against the real API server, and in turn with kubectl."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.cli.merge3 import LAST_APPLIED
from tests.apiserver import APPLY
from tests.clicase import Cli, Ran, applied, domain, eventually, node

EXAMPLES = Path(__file__).parents[2] / "specs" / "examples"


# apply, diff, validate


async def test_apply_creates_changes_and_leaves_alone(cli: Cli) -> None:
    assert await cli("apply -f", cli.file(domain())) == Ran(0, "domain.domctl.io/web created\n", "")
    assert await cli("apply -f", cli.file(domain())) == Ran(0, "domain.domctl.io/web unchanged\n", "")
    assert await cli("apply -f", cli.file(domain(vcpus=2))) == Ran(0, "domain.domctl.io/web configured\n", "")
    assert (await cli.body("web"))["spec"]["vcpus"] == 2
    await cli("apply -f", cli.file(domain()))
    assert "vcpus" not in (await cli.body("web"))["spec"]


async def test_apply_keeps_what_others_set(cli: Cli) -> None:
    await applied(cli, domain())
    await cli("shutdown web")
    await applied(cli, domain(vcpus=3))
    assert (await cli.body("web"))["spec"] == {
        "type": "qemu",
        "memory": "64Mi",
        "vcpus": 3,
        "state": "shutoff",
    }


async def test_apply_takes_a_directory_stdin_and_lists(cli: Cli) -> None:
    cli.file(domain("b"), "d/b.yaml")
    cli.file(domain("a"), "d/a.yml")
    cli.file(domain("c"), "d/below/c.yaml")
    cli.file("no yaml: [", "d/notes.txt")
    directory = str(cli.directory / "d")
    ran = await cli("apply -f", directory)
    assert ran.out == "domain.domctl.io/a created\ndomain.domctl.io/b created\n"
    assert (await cli("apply -R -f", directory)).out.endswith("domain.domctl.io/c created\n")
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [yaml.safe_load(domain("l"))]})
    assert (await cli("apply -f -", stdin=listed)).out == "domain.domctl.io/l created\n"


async def test_all_examples_apply(cli: Cli) -> None:
    ran = await cli("apply -R -f", str(EXAMPLES))
    assert ran.code == 0, ran.err
    assert ran.out and all(line.endswith(" created") for line in ran.out.splitlines())


async def test_nothing_is_sent_while_any_document_of_any_file_is_wrong(cli: Cli) -> None:
    good, bad = cli.file(domain("good"), "good.yaml"), cli.file(domain("bad", vcpus=0, nope=1), "bad.yaml")
    ran = await cli("apply -f", good, "-f", bad)
    assert (ran.code, ran.out) == (1, "")
    assert f"{bad}:11:3: spec.vcpus: must be between 1 and 4096, is 0" in ran.err
    assert "spec.nope: unknown field" in ran.err
    assert ran.err.endswith("error: 2 problems found; nothing was sent\n")
    assert not await cli.exists("good")


async def test_the_same_object_in_two_files_is_refused(cli: Cli) -> None:
    first, second = cli.file(domain(), "1.yaml"), cli.file(domain(vcpus=2), "2.yaml")
    ran = await cli("apply -f", f"{first},{second}")
    assert ran.code == 1
    assert f'{second}:1:1: Domain "web" is there twice, first in {first}:1' in ran.err


async def test_an_object_is_the_same_by_the_namespace_that_it_is_given(cli: Cli) -> None:
    """Sent abreast, either of two would have won."""
    space = "apiVersion: v1\nkind: Namespace\nmetadata: {name: prod}\n"
    assert (await cli("apply -f", cli.file(space, "space.yaml"))).code == 0
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a%s}\n"
    named, bare = cli.file(head % ", namespace: prod", "1.yaml"), cli.file(head % "", "2.yaml")
    ran = await cli("apply -n prod -f", f"{named},{bare}")
    assert (ran.code, ran.out) == (1, "") and 'ConfigMap "a" is there twice' in ran.err
    ran = await cli("diff -n prod -f", f"{named},{bare}")
    assert ran.code > 1 and 'ConfigMap "a" is there twice' in ran.err
    ran = await cli("apply -f", f"{named},{bare}")
    assert ran.code == 0, ran.err  # one of them is in default


async def test_problems_are_written_in_the_forms_that_forges_show(cli: Cli) -> None:
    good, bad = cli.file(domain("good"), "good.yaml"), cli.file(domain("bad", vcpus=0, nope=1), "bad.yaml")
    ran = await cli("validate -o github -f", f"{good},{bad}")
    assert ran.code == 1 and f"{bad}:11:3: spec.vcpus: " in ran.err
    assert ran.out.splitlines() == [
        f"::error file={bad},line=9,col=3::spec.nope: unknown field",
        f"::error file={bad},line=11,col=3::spec.vcpus: must be between 1 and 4096, is 0",
    ]
    found = json.loads((await cli("validate -o gitlab -f", bad)).out)
    assert [(one["severity"], one["location"]) for one in found] == [
        ("critical", {"path": bad, "lines": {"begin": line}}) for line in (9, 11)
    ]
    assert len({one["fingerprint"] for one in found}) == 2
    shown = {"file": bad, "line": 11, "column": 3, "field": "spec.vcpus", "severity": "error"}
    assert shown.items() <= json.loads((await cli("validate -o json -f", bad)).out)[1].items()
    assert await cli("validate -o json -f", good) == Ran(0, "[]\n", "")
    warned = await cli("validate --validate=warn -o github -f -", stdin=domain(nope=1))
    assert (warned.code, warned.out.partition(" ")[0]) == (0, "::warning")
    assert (await cli("validate -o xml -f", good)).code == 1


async def test_no_file_can_give_commands_to_github(cli: Cli) -> None:
    path = cli.file('kind: "a%\\n::set-output name=x::y"\n', "a,b:c.yaml")
    ran = await cli("validate -o github -f", os.path.dirname(path))  # -f itself parts names by commas
    assert ran.code == 1 and ran.out
    assert all(line.startswith("::error file=") for line in ran.out.splitlines())
    assert "a%2Cb%3Ac.yaml" in ran.out


async def test_one_object_that_fails_does_not_keep_the_others_back(cli: Cli) -> None:
    mac = [{"name": "n", "network": "default", "mac": "52:54:00:00:00:01"}]
    await applied(cli, domain("a", interfaces=mac))
    ran = await cli("apply -f -", stdin="---\n".join([domain("b", interfaces=mac), domain("c")]))
    assert (ran.code, ran.out) == (1, "domain.domctl.io/c created\n")
    assert "stdin:1" in ran.err and "52:54:00:00:00:01" in ran.err


async def test_dry_runs_change_nothing(cli: Cli) -> None:
    for mode, words in (("client", "dry run"), ("server", "server dry run")):
        ran = await cli(f"apply -f - --dry-run={mode}", stdin=domain())
        assert ran == Ran(0, f"domain.domctl.io/web created ({words})\n", "")
    assert not await cli.exists("web")


async def test_apply_waits_until_all_is_ready_and_tells_what_holds(cli: Cli) -> None:
    waiting = asyncio.create_task(
        cli("apply -f - --wait --timeout 30s", stdin=domain("a") + "---\n" + domain("b"))
    )
    for name in ("b", "a"):
        await eventually(functools.partial(cli.exists, name))
        await asyncio.sleep(0.2)
        await cli.become(name, "True")
    ran = await waiting
    assert ran.code == 0, ran.err
    assert sorted(ran.out.splitlines()[2:]) == [f"domain.domctl.io/{name} condition met" for name in "ab"]


async def test_apply_does_not_wait_for_what_is_stalled(cli: Cli) -> None:
    await applied(cli, domain())
    await cli.become("web", "False", "Rejected", stalled="True")
    ran = await cli("apply -f - --wait --timeout 30s", stdin=domain())
    assert ran.code == 1
    assert ran.err == "error: stalled on domains/web: Rejected: words\n"


async def test_apply_that_waits_in_vain_says_why(cli: Cli) -> None:
    ran = await cli("apply -f - --wait --timeout 500ms", stdin=domain())
    assert ran.code == 1
    assert "on domains/web: Pending: Waiting for the controller" in ran.err


async def test_diff_shows_and_changes_nothing(cli: Cli) -> None:
    await applied(cli, domain())
    before = await cli.body("web")
    assert await cli("diff -f -", stdin=domain()) == Ran(0, "", "")
    ran = await cli("diff -f -", stdin=domain(vcpus=2) + "---\n" + domain("new"))
    assert ran.code == 1
    assert "+  vcpus: 2\n" in ran.out and "+  name: new\n" in ran.out
    assert await cli.body("web") == before
    assert (await cli("diff -f /nope")).code == 2
    assert (await cli("diff -f -", stdin=domain(vcpus=0))).code == 2


# whose a field is


def managers(body: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(e["manager"], e["operation"]): e["fieldsV1"] for e in body["metadata"]["managedFields"]}


async def test_what_is_applied_belongs_to_domctl_apply(cli: Cli) -> None:
    await applied(cli, domain(vcpus=2))
    body = await cli.body("web")
    owned = managers(body)["domctl-apply", "Apply"]
    assert set(owned["f:spec"]) == {"f:type", "f:memory", "f:vcpus"}
    assert "annotations" not in body["metadata"]


async def test_a_conflict_names_manager_and_field_and_the_way_out(cli: Cli) -> None:
    await applied(cli, domain(vcpus=2))
    file = cli.file(domain(vcpus=3, memory="128Mi"))
    await cli("apply --field-manager=other --force-conflicts -f", file)
    place = f"{cli.file(domain(vcpus=4))}:1"
    ran = await cli("apply -f", place.removesuffix(":1"))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        f"Error from server (Conflict): error when applying {place}: Apply failed with 2 conflicts: "
        'conflicts with "other":\n- .spec.memory\n- .spec.vcpus\n'
        "hint: --force-conflicts takes these fields over; "
        "without them in the file they stay as the other has set them\n"
    )
    assert (await cli.body("web"))["spec"]["vcpus"] == 3
    assert (await cli("apply --force-conflicts -f", place.removesuffix(":1"))).code == 0
    assert (await cli.body("web"))["spec"]["vcpus"] == 4
    assert "f:vcpus" not in managers(await cli.body("web")).get(("other", "Apply"), {}).get("f:spec", {})


async def test_devices_of_two_managers_stand_side_by_side(cli: Cli) -> None:
    await applied(cli, domain(interfaces=[{"name": "a", "network": "default"}]))
    disk = {**yaml.safe_load(domain()), "spec": {"interfaces": [{"name": "b", "network": "default"}]}}
    patch = "/apis/domctl.io/v1/namespaces/default/domains/web?fieldManager=other"
    assert (await cli.api.call("PATCH", patch, disk, type=APPLY)).status == 200
    assert (await cli("apply -f -", stdin=domain())).out == "domain.domctl.io/web configured\n"
    assert [one["name"] for one in (await cli.body("web"))["spec"]["interfaces"]] == ["b"]


@pytest.mark.parametrize("way", ["domctl apply --server-side=false -f", "kubectl apply -f"])
async def test_what_was_applied_from_the_clients_side_is_taken_over(cli: Cli, way: str) -> None:
    file = cli.file(domain(vcpus=1))
    assert (await either(cli, way, file)).code == 0
    assert LAST_APPLIED in (await cli.body("web"))["metadata"]["annotations"]
    cli.file(domain(memory="128Mi"))
    assert (await cli("apply -f", file)).out == "domain.domctl.io/web configured\n"
    body = await cli.body("web")
    assert body["spec"] == {"type": "qemu", "memory": "128Mi"}
    assert "annotations" not in body["metadata"]
    assert set(managers(body)) == {("domctl-apply", "Apply")}
    assert (await cli("apply -f", file)).out == "domain.domctl.io/web unchanged\n"


async def either(cli: Cli, way: str, file: str) -> Ran:
    tool, _, rest = way.partition(" ")
    return await (cli(f"{rest} {file}") if tool == "domctl" else cli.kubectl(f"{rest} {file}"))


async def test_what_was_applied_before_fields_had_owners_is_taken_over(cli: Cli) -> None:
    await cli("apply --server-side=false -f -", stdin=domain(vcpus=1))

    def forget(body: dict[str, Any]) -> None:
        del body["metadata"]["managedFields"]
        body["spec"]["restartPolicy"] = "Never"

    await cli.change("web", forget)
    assert (await cli("apply -f -", stdin=domain(memory="128Mi"))).code == 0
    body = await cli.body("web")
    assert body["spec"] == {"type": "qemu", "memory": "128Mi", "restartPolicy": "Never"}
    assert set(managers(body)) == {("domctl-apply", "Apply")}


async def test_a_dry_run_of_a_take_over_tells_what_it_would_take_away_and_takes_nothing(cli: Cli) -> None:
    await cli("apply --server-side=false -f -", stdin=domain(vcpus=1))
    before = await cli.body("web")
    assert "-  vcpus: 1\n" in (await cli("diff -f -", stdin=domain())).out
    for mode in ("server", "client"):
        ran = await cli(f"apply --dry-run={mode} -f -", stdin=domain())
        assert ran.out.startswith("domain.domctl.io/web configured ("), ran
    assert await cli.body("web") == before


async def test_a_dry_run_without_the_server_tells_changes_from_none(cli: Cli) -> None:
    both = domain(vcpus=2, interfaces=[{"name": "a", "network": "default"}])
    await applied(cli, both)
    for text, what in ((both, "unchanged"), (domain(), "configured"), (domain(vcpus=2), "configured")):
        ran = await cli("apply --dry-run=client -f -", stdin=text)
        assert ran.out == f"domain.domctl.io/web {what} (dry run)\n"


async def test_kubectl_and_domctl_apply_the_same_files_in_turn(cli: Cli) -> None:
    file = cli.file(domain(vcpus=1) + "---\n" + node())
    await cli("apply -f", file)
    ran = await cli.kubectl(f"apply -f {file}")
    assert ran.code == 0, ran.err
    again = "domain.domctl.io/web unchanged\nnode.domctl.io/hv1 unchanged\n"
    assert (await cli("apply -f", file)).out == again
    cli.file(domain(vcpus=2) + "---\n" + node())
    assert (await cli.kubectl(f"apply -f {file}")).out.startswith("domain.domctl.io/web configured")
    assert (await cli("apply -f", file)).out == again
    cli.file(domain() + "---\n" + node())
    await cli("apply -f", file)
    assert "vcpus" not in (await cli.body("web"))["spec"]
    assert (await cli.kubectl(f"apply --server-side --force-conflicts -f {file}")).code == 0
    assert (await cli("apply -f", file)).out == again


async def test_from_the_clients_side_both_apply_in_turn_without_a_change(cli: Cli) -> None:
    file = cli.file(domain(vcpus=1) + "---\n" + node())
    await cli("apply --server-side=false -f", file)
    again = "domain.domctl.io/web unchanged\nnode.domctl.io/hv1 unchanged\n"
    assert (await cli.kubectl(f"apply -f {file}")).out == again
    cli.file(domain() + "---\n" + node())
    assert (await cli.kubectl(f"apply -f {file}")).out.startswith("domain.domctl.io/web configured")
    assert (await cli("apply --server-side=false -f", file)).out == again
    assert (await cli("apply --server-side=false --force-conflicts -f", file)).code == 1


async def test_a_secret_applied_from_the_clients_side_stands_in_its_data_alone(cli: Cli) -> None:
    def secret(**texts: str) -> str:
        head = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
        return cli.file(json.dumps({**head, "data": {"a": "Zmlyc3Q="}, "stringData": texts}))

    def words() -> Any:
        return cli("apply --server-side=false -f", path)

    path = secret(b="hunter2", c="other")
    assert (await words()).out == "secret/s created\n"
    assert (await words()).out == "secret/s unchanged\n"
    path = secret(b="hunter3")
    assert (await words()).out == "secret/s configured\n"
    found = (await cli.api.call("GET", "/api/v1/namespaces/default/secrets/s")).body
    assert found["data"] == {"a": "Zmlyc3Q=", "b": "aHVudGVyMw=="}
    kept = found["metadata"]["annotations"][LAST_APPLIED]
    assert not any(value in kept for value in ("hunter", "aHVudGVy", "Zmlyc3Q=", "stringData"))
    path = secret(b="hunter4")
    shown = await cli("diff --server-side=false -f", path)
    assert shown.code == 1 and "hunter" not in shown.out
