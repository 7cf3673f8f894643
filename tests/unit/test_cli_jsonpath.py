"""JSONPath templates: what kubectl's documentation shows, with kubectl's results."""

from __future__ import annotations

import pytest

from controller.cli.errors import CliError
from controller.cli.jsonpath import Template, relaxed

LIST = {
    "kind": "List",
    "items": [
        {
            "metadata": {"name": "web-1", "labels": {"app.kubernetes.io/name": "web"}},
            "spec": {"vcpus": 2, "on": True},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "Stalled", "status": "False"}]
            },
        },
        {
            "metadata": {"name": "db-1"},
            "spec": {"vcpus": 8, "disks": [{"name": "a"}, {"name": "b"}, {"name": "c"}]},
        },
    ],
}
RENDERED = {
    "{.kind}": "List",
    "{.items[*].metadata.name}": "web-1 db-1",
    "{.items[0].metadata.name}": "web-1",
    "{.items[-1].metadata.name}": "db-1",
    "{.items[1].spec.disks[0:2].name}": "a b",
    "{.items[1].spec.disks[1:].name}": "b c",
    "{.items[0]['metadata']['name']}": "web-1",
    "{.items[0].metadata.labels.app\\.kubernetes\\.io/name}": "web",
    '{.items[0].status.conditions[?(@.type=="Ready")].status}': "True",
    "{.items[0].status.conditions[?(@.type!='Ready')].type}": "Stalled",
    "{.items[?(@.spec.vcpus>2)].metadata.name}": "db-1",
    "{.items[?(@.spec.vcpus<=2)].metadata.name}": "web-1",
    "{.items[?(@.spec.disks)].metadata.name}": "db-1",
    "{.items[?(@.spec.on==true)].metadata.name}": "web-1",
    "{..vcpus}": "2 8",
    '{range .items[*]}{.metadata.name}{"\\t"}{.spec.vcpus}{"\\n"}{end}': "web-1\t2\ndb-1\t8\n",
    "{range .items[*]}[{.metadata.name}]{end}": "[web-1][db-1]",
    "{.items[0].spec}": '{"on":true,"vcpus":2}',
    "{.nothing}": "",
    "{.nothing.at.all[3]}": "",
    "name: {.kind}!": "name: List!",
    "{$.kind}": "List",
    "{.items[0].spec.vcpus} {.items[1].spec.vcpus}": "2 8",
    "{'}'}": "}",
}


@pytest.mark.parametrize("template", RENDERED)
def test_template_renders_as_kubectl_does(template: str) -> None:
    assert Template(template).render(LIST) == RENDERED[template]


WRONG = [
    "{.a",
    "{.a[}",
    "{.a[?(@.b=)]}",
    "{range .a}",
    "{end}",
    "{.a[b]}",
    "{.a..}",
    '{"}',
    "{.a[?(@.b==x)]}",
    "{.a[?(@.b&&@.c)]}",
    "{.a[?(@.b || @.c)]}",
    "{.a[?(@.b=='x' || @.c=='y')].b}",
    '{.a[?(@.b=="x" && @.c=="y")].b}',
    "{.a&b}",
]


@pytest.mark.parametrize("template", WRONG)
def test_wrong_template_is_refused_before_it_is_used(template: str) -> None:
    with pytest.raises(CliError, match=r"error parsing jsonpath"):
        Template(template)


def test_a_filter_of_several_conditions_is_refused_in_kubectls_words_and_text_in_it_is_text() -> None:
    with pytest.raises(CliError, match=r"unrecognized character in action: U\+007C '\|'") as refused:
        Template("{.a[?(@.b=='x' || @.c=='y')].b}")
    assert "one condition" in refused.value.hint
    assert Template("{.a[?(@.b=='x || y')].b}").render({"a": [{"b": "x || y"}, {"b": "x"}]}) == "x || y"


@pytest.mark.parametrize(
    "source", ["metadata.name", ".metadata.name", "{.metadata.name}", " {.metadata.name} "]
)
def test_columns_and_waits_take_paths_with_and_without_braces(source: str) -> None:
    assert Template(relaxed(source)).values(LIST["items"][0]) == ["web-1"]
