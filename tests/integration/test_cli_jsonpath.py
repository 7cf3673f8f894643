"""JSONPath templates, judged by a real kubectl: the same output for the same objects."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from tests.clicase import FROM, Cli, applied, domain, node
from tests.kubectl import newest

TEMPLATES = (
    "{.items[*].metadata.name}",
    "{.items[0].metadata.name}",
    "{.items[-1].metadata.name}",
    "{.items[0:2].metadata.name}",
    "{.items[1:].metadata.name}",
    "{.items[:1].metadata.name}",
    "{.items[::2].metadata.name}",
    "{.items[0,2].metadata.name}",
    "{.items[*]['metadata.name', 'spec.memory']}",
    "{.items[*].metadata.labels.example\\.org/tier}",
    "{.items[*].metadata.labels['example\\.org/tier']}",
    '{range .items[*]}{.metadata.name}{"\\t"}{.spec.vcpus}{"\\n"}{end}',
    '{range .items[*]}[{.metadata.name}: {range .spec.interfaces[*]}{.name},{end}]{end}',
    '{.items[?(@.metadata.name=="web")].spec.memory}',
    "{.items[?(@.metadata.name!='web')].metadata.name}",
    "{.items[?(@.spec.vcpus>2)].metadata.name}",
    "{.items[?(@.spec.vcpus>=2)].metadata.name}",
    "{.items[?(@.spec.vcpus<=2)].metadata.name}",
    "{.items[?(@.spec.vcpus)].metadata.name}",
    '{.items[?(@.metadata.labels.example\\.org/tier=="front")].metadata.name}',
    '{.items[*].spec.interfaces[?(@.name=="b")].network}',
    "{..network}",
    "{.items[*].spec.interfaces}",
    "{.items[*].spec.interfaces[*].name}",
    "{.items[0].spec}",
    "{.items[*].spec.vcpus}",
    "{.items[*].nothing}",
    "{.nothing.at.all}",
    "{.kind} {.apiVersion}",
    "names: {.items[*].metadata.name}!",
    "{$.items[0].metadata.name}",
    "{@.items[0].metadata.name}",
    "{'literal'}",
    "{.items[7].metadata.name}",
    "{.items[?(@.metadata.name=='web' || @.metadata.name=='db')].metadata.name}",
    "{.items[?(@.metadata.name && @.spec.vcpus)].metadata.name}",
    "{",
    "{end}",
    "{.items[}",
)  # fmt: skip


@pytest.fixture
async def filled(cli: Cli) -> Cli:
    wires = [{"name": "a", "network": "default"}, {"name": "b", "network": "back"}]
    await applied(cli, domain("db", vcpus=4), domain("web", vcpus=2, interfaces=wires), domain("x"), node())
    await cli("label domain web example.org/tier=front")
    return cli


async def test_templates_give_what_kubectl_gives(filled: Cli) -> None:
    binary, differing = newest(FROM), []
    for template in TEMPLATES:
        argument = f"-o=jsonpath={template}"
        ours = await filled("get domains", argument)
        theirs = await asyncio.to_thread(run_kubectl, binary, filled, argument)
        if (ours.code != 0) != (theirs[0] != 0) or (ours.code == 0 and ours.out != theirs[1]):
            differing.append((template, ours, theirs))
    assert not differing, "\n".join(map(repr, differing))


def run_kubectl(binary: str, cli: Cli, argument: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [binary, "get", "domains", argument],
        env=cli.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr
