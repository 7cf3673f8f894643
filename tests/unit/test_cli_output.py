"""What users see: tables, YAML, descriptions and errors."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.cli import output, table
from controller.cli.describe import described, title
from controller.cli.errors import CliError, StatusError, Unreached, printable, rendered
from controller.cli.table import Grid, Options, Printer
from specs import yamlout
from specs.yamldoc import load

COLUMNS = [
    {"name": "Name", "format": "name"},
    {"name": "Ready"},
    {"name": "Reason"},
    {"name": "UUID", "priority": 1},
]


def row(name: str, *cells: object, **meta: Any) -> dict[str, Any]:
    return {"cells": [name, *cells], "object": {"metadata": {"name": name, "namespace": "default", **meta}}}


def lines(options: Options, *rows: dict[str, Any]) -> list[str]:
    return Printer(options).lines({"columnDefinitions": COLUMNS, "rows": list(rows)})


def test_columns_are_three_spaces_apart_and_wide_ones_are_left_out() -> None:
    assert lines(Options(), row("web-1", "True", "Running", "u1"), row("a", None, "", "u2")) == [
        "NAME    READY    REASON",
        "web-1   True     Running",
        "a       <none>   ",
    ]


def test_wide_shows_all_columns() -> None:
    options = Options()
    options.wide = True
    assert lines(options, row("web-1", "True", "Running", "u1"))[0] == "NAME    READY   REASON    UUID"


def test_namespace_labels_and_prefix_stand_where_kubectl_has_them() -> None:
    options = Options()
    options.with_namespace, options.show_labels, options.name_prefix = True, True, "domain.domctl.io/"
    options.label_columns = ["app", "example.com/tier"]
    found = lines(options, row("web-1", "True", "Running", "u1", labels={"app": "web", "b": "2"}))
    assert found[0].split() == ["NAMESPACE", "NAME", "READY", "REASON", "APP", "TIER", "LABELS"]
    assert found[1].split() == ["default", "domain.domctl.io/web-1", "True", "Running", "web", "app=web,b=2"]


def test_a_watch_keeps_the_widths_and_heads_only_once() -> None:
    printer = Printer(Options())
    first = printer.lines({"columnDefinitions": COLUMNS, "rows": [row("longer-name", "True", "x", "u")]})
    second = printer.lines({"rows": [row("a", "False", "y", "u")]})
    assert len(first) == 2
    assert second == ["a             False   y"]


def test_headers_come_with_the_first_row_of_an_empty_watch() -> None:
    printer = Printer(Options())
    assert printer.lines({"columnDefinitions": COLUMNS, "rows": []}) == []
    assert printer.lines({"rows": [row("a", "True", "", "u")]})[0].startswith("NAME")


@given(st.text())
def test_nothing_shown_can_steer_a_terminal(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert table.cell_text(text).isprintable()


def test_cells_of_several_lines_are_cut_at_the_first() -> None:
    assert table.cell_text("one\ntwo") == "one..."


def test_grid_does_not_pad_the_last_column() -> None:
    assert Grid().lines([["a", "b"], ["aaaaa", ""]]) == ["a       b", "aaaaa   "]


TRAPS = ["on", "yes", "1e3", "0o17", "0777", "12:30", "52:54:00:12:34:56", "2026-01-01", "~", "", "null",
         ".inf", "0x1f", "1_000", "-", "=", "<<", "a: b", "#x", "a\nb", "a\nb\n", " a\n b ", "\ta", "ü",
         "\u2028", "a\u2029\n", "a\x85b", "a\nb\x07", "1.", "+1", ".5",
         "1e-3", "NaN", "true", "\x1b[31m", "'", '"',
         "y", "N", "0X1F", "0B1", "0O7", "-0x1F", "1_0.5", "1_0e3", "0x_1", "y_", "yn",
         "a\n\nb\n\n", "@a", "%a", "!a", "&a", "*a", "? a"]  # fmt: skip


@pytest.mark.parametrize("text", TRAPS)
def test_strings_in_yaml_stay_strings_for_old_and_new_readers(text: str) -> None:
    written = yamlout.dump({"key": text, "list": [text]})
    assert yaml.safe_load(written) == {"key": text, "list": [text]}
    assert load(written).documents[0].value == {"key": text, "list": [text]}


@pytest.mark.parametrize(
    "text", ["y", "Y", "n", "N", "0X1F", "0B1", "0O7", "-0x1F", "+0b1", "1_0.5", "1_0e3"]
)
def test_what_kubectl_reads_as_something_else_is_quoted(text: str) -> None:
    assert yamlout.dump({"a": text, text: "a"}).count(f'"{text}"') == 2


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc-.", min_size=1, max_size=4), inner)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), json_values))
def test_yaml_reads_back_as_what_was_written(value: dict[str, Any]) -> None:
    assert yaml.safe_load(yamlout.dump(value)) == value


def test_yaml_is_laid_out_as_kubectl_does() -> None:
    value = {"b": [{"y": 1, "x": "1"}], "a": {"t": "one\ntwo\n"}, "c": [], "d": {}}
    assert yamlout.dump(value) == 'a:\n  t: |\n    one\n    two\nb:\n- x: "1"\n  "y": 1\nc: []\nd: {}\n'


def test_managed_fields_are_left_out_of_objects_and_lists() -> None:
    one = {"kind": "Domain", "metadata": {"name": "a", "managedFields": [1]}}
    assert output.without_managed_fields(one) == {"kind": "Domain", "metadata": {"name": "a"}}
    assert output.without_managed_fields(output.as_list([one]))["items"][0]["metadata"] == {"name": "a"}


@pytest.mark.parametrize(
    "option", ["xml", "jsonpath", "jsonpath=", "jsonpath={.a", "custom-columns=A", "go-template=x"]
)
def test_formats_that_are_not_there_are_refused(option: str) -> None:
    with pytest.raises(CliError):
        output.Format(option)


DOMAIN = {
    "apiVersion": "domctl.io/v1",
    "kind": "Domain",
    "metadata": {
        "name": "web-1", "namespace": "default", "uid": "u-1", "labels": {"app": "web"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "x" * 300},
    },
    "spec": {
        "memory": "64Mi", "xml": "<a>\n</a>",
        "disks": [{"name": "root", "source": {"file": "/x"}}, {"name": "b"}],
    },
    "status": {
        "node": "hv1", "macs": {},
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "Held", "message": "hv3 \x1b[2J is silent"},
        ],
    },
}  # fmt: skip
EVENT = {
    "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "type": "Warning", "reason": "Held",
    "message": "waits\n", "count": 3, "firstTimestamp": "2026-01-01T00:00:00Z",
    "lastTimestamp": "2026-01-01T01:00:00Z", "source": {"component": "domctl"},
}  # fmt: skip


def test_description_tells_what_is_wanted_what_is_and_why_not() -> None:
    text = "\n".join(described(DOMAIN, [EVENT]))
    assert (
        "Name:         web-1\nNamespace:    default\nLabels:       app=web\nAnnotations:  note: xxx" in text
    )
    assert "last-applied" not in text
    assert "Spec:\n  Disks:\n    - Name:  root\n      Source:\n        File:  /x\n    - Name:  b\n" in text
    assert "\n  Memory:  64Mi\n" in text
    assert "  XML:\n    <a>\n    </a>" in text
    assert "  MACs:  <none>\n  Node:  hv1" in text
    assert "Ready   False    <unknown>   Held     hv3 \\x1b[2J is silent" in text
    assert "(x3 over" in text and "domctl   waits" in text


def test_description_says_that_there_are_no_events() -> None:
    assert described(DOMAIN, [])[-1] == "Events:  <none>"
    assert not any("Events" in line for line in described(DOMAIN, None))


def test_field_names_become_titles() -> None:
    assert title("creationTimestamp") == "Creation Timestamp"
    assert title("uid") == "UID"
    assert title("example.com/x") == "example.com/x"


def status(code: int, reason: str, message: str, **details: Any) -> StatusError:
    return StatusError({"code": code, "reason": reason, "message": message, "details": details})


def test_errors_read_as_kubectls() -> None:
    missing = status(404, "NotFound", 'domains.domctl.io "a" not found', name="a")
    assert rendered(missing) == 'Error from server (NotFound): domains.domctl.io "a" not found\n'
    assert rendered(status(401, "Unauthorized", "Unauthorized")) == (
        "error: You must be logged in to the server (Unauthorized)\n"
    )
    assert rendered(CliError("no", hint="do that")) == "error: no\nhint: do that\n"
    assert rendered(Unreached("The connection to the server x was refused")).startswith("The connection")


def test_all_causes_of_a_refusal_are_listed_once() -> None:
    causes = [{"field": "spec.a", "message": "is wrong"}, {"field": "spec.b", "message": "too"}]
    error = status(422, "Invalid", "…", kind="Domain", name="web", causes=[*causes, causes[0]])
    assert rendered(error) == 'The Domain "web" is invalid:\n* spec.a: is wrong\n* spec.b: too\n'
    one = status(422, "Invalid", "…", kind="Domain", name="web", causes=causes[:1])
    assert rendered(one) == 'The Domain "web" is invalid: spec.a: is wrong\n'
    assert rendered(one.while_("error when applying f:1")).startswith(
        'The Domain "web" is invalid (error when'
    )


def test_what_a_server_says_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in rendered(status(400, "BadRequest", "\x1b[31mred"))


@pytest.mark.parametrize("broken", [{}, {"code": "x"}, {"code": 404, "details": []}, {"message": None}])
def test_a_status_that_is_none_is_still_an_error(broken: dict[str, Any]) -> None:
    assert rendered(StatusError(broken)).startswith("Error from server")
