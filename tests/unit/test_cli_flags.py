"""The command line: verbs, options, durations, and help for every verb."""

from __future__ import annotations

import importlib
import io
from contextlib import redirect_stderr, redirect_stdout

import pytest

from controller.cli import verbs
from controller.cli.errors import UsageError
from controller.cli.flags import Flags, duration_s, listed
from controller.cli.main import main


def run(*argv: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(argv))
    return code, out.getvalue(), err.getvalue()


def flags() -> Flags:
    made = Flags("domctl get")
    made.switch("-A", "--all-namespaces", text="all")
    made.switch("-w", "--watch", text="watch")
    made.switch("--wait", default=True, text="wait")
    made.value("-o", "--output", text="format")
    made.value("-n", "--namespace", text="namespace")
    made.values("-f", "--filename", text="files")
    made.values("--not-on", nargs="+", text="nodes")
    return made


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("domains -n x web-1 web-2", ["domains", "web-1", "web-2"]),
        ("-o=yaml domains web-1", ["domains", "web-1"]),
        ("domains -- --odd", ["domains", "--odd"]),
        ("- a", ["-", "a"]),
    ],
)
def test_options_may_stand_anywhere_among_the_words(argv: str, words: list[str]) -> None:
    assert flags().parse(argv.split()).words == words


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        ("", "wait", True),
        ("--wait", "wait", True),
        ("--wait=true", "wait", True),
        ("--wait=false", "wait", False),
        ("-A", "all_namespaces", True),
        ("-A=false", "all_namespaces", False),
        ("-Aw", "watch", True),
        ("-Aoyaml", "output", "yaml"),
        ("-o yaml", "output", "yaml"),
        ("-o=yaml", "output", "yaml"),
        ("--output=a=b", "output", "a=b"),
        ("-f a -f b,c", "filename", ["a", "b,c"]),
        ("-f -", "filename", ["-"]),
        ("web --not-on hv1 hv2 --not-on hv3", "not_on", ["hv1", "hv2", "hv3"]),
    ],
)
def test_options_are_written_as_for_kubectl(argv: str, name: str, value: object) -> None:
    assert getattr(flags().parse(argv.split()), name) == value


def test_a_boolean_does_not_swallow_the_next_word() -> None:
    assert flags().parse(["--wait", "false"]).words == ["false"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--nope", "unknown flag: --nope"),
        ("--nope=3", "unknown flag: --nope"),
        ("-x", "unknown shorthand flag: -x"),
        ("--wait=maybe", "--wait"),
        ("-o", "expected one argument"),
        ("--out yaml", "unknown flag: --out"),
    ],
)
def test_wrong_option_is_named_with_the_way_to_help(argv: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        flags().parse(argv.split())
    assert message in caught.value.text()
    assert "See 'domctl get --help' for usage." in caught.value.text()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60),
        ("2m", 120),
        ("1m30s", 90),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("0", 0),
        ("0s", 0),
        ("-1s", -1),
    ],
)
def test_durations_are_read_as_go_writes_them(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "m5", "1.2.3s", "-", "5 s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        duration_s(text)


def test_values_are_parted_by_commas_and_repetition() -> None:
    assert listed(["a,b", "c", ""]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("argv", "verb", "rest"),
    [
        ("get domains", "get", ["domains"]),
        ("-n prod get domains", "get", ["-n", "prod", "domains"]),
        ("--kubeconfig f --v=6 get x", "get", ["--kubeconfig", "f", "--v=6", "x"]),
        ("node confirm-dead hv1", "node confirm-dead", ["hv1"]),
        ("node -v 6 confirm-dead hv1", "node confirm-dead", ["-v", "6", "hv1"]),
        ("store ack", "store ack", []),
        ("node", "node", []),
        ("", "", []),
        ("--help", "", ["--help"]),
    ],
)
def test_verb_is_found_wherever_global_options_stand(argv: str, verb: str, rest: list[str]) -> None:
    assert verbs.split(argv.split()) == (verb, rest)


@pytest.mark.parametrize("verb", [name for _, name, _, _ in verbs.VERBS])
def test_every_verb_has_help_with_usage_and_without_a_server(verb: str) -> None:
    code, out, err = run(*verb.split(), "--help")
    assert (code, err) == (0, "")
    assert f"Usage:\n  domctl {verb}" in out
    assert out.endswith("\n") and not out.endswith("\n\n")
    assert out == run("help", *verb.split())[1] == run(*verb.split(), "-h")[1]


@pytest.mark.parametrize("verb", [name for _, name, _, _ in verbs.VERBS if name != "options"])
def test_help_shows_examples_that_begin_with_the_verb(verb: str) -> None:
    made = Flags(f"domctl {verb}")
    importlib.import_module(f"controller.cli.{verbs.module_of(verb)}").configure(made)
    assert made.examples
    assert any(f"domctl {verb}" in command for _, command in made.examples)


@pytest.mark.parametrize("verb", [name for _, name, _, _ in verbs.VERBS if name not in {"options", "serve"}])
def test_options_in_examples_exist(verb: str) -> None:
    made = Flags(f"domctl {verb}")
    importlib.import_module(f"controller.cli.{verbs.module_of(verb)}").configure(made)
    for _, command in made.examples:
        if command.startswith(f"domctl {verb}") and not set(command) & set("|;>\"'"):
            made.parse(command.removeprefix(f"domctl {verb}").split())


@pytest.mark.parametrize("argv", [[], ["help"], ["--help"], ["-h"]])
def test_without_a_verb_all_verbs_are_shown(argv: list[str]) -> None:
    code, out, _ = run(*argv)
    assert code == 0
    assert all(name in out and summary in out for _, name, _, summary in verbs.VERBS)


def test_unknown_verb_is_answered_with_what_is_near() -> None:
    code, out, err = run("aply")
    assert (code, out) == (1, "")
    assert err == 'error: unknown command "aply" for "domctl"\n\nDid you mean this?\n\tapply\n'


def test_half_a_verb_shows_its_other_half() -> None:
    code, out, _ = run("node")
    assert code == 1
    assert "domctl node confirm-dead" in out
    assert run("node", "explode")[2] == 'error: unknown command "node explode" for "domctl"\n'


def test_shared_options_are_listed_once() -> None:
    code, out, _ = run("options")
    assert code == 0
    assert "--kubeconfig" in out and "--namespace" in out
    assert "--kubeconfig" not in run("get", "--help")[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("serve", "--data-dir is required"),
        ("serve --data-dir d --listen 7443", "--listen must be HOST:PORT"),
        ("serve --data-dir d --listen :7443", "--listen must be HOST:PORT"),
        ("serve --data-dir d --listen h:70000", "--listen must be HOST:PORT"),
        ("serve --data-dir d extra", "unexpected words: extra"),
        ("apply extra", "files are named with -f"),
        ("apply", "must specify -f"),
        ("apply -f https://x/y.yaml", "URLs are not supported"),
        ("apply -f x --dry-run=maybe", "Invalid dry-run value (maybe)"),
        ("wait domain/a --for=foo", 'unrecognized condition: "foo"'),
        ("wait domain/a --for=condition=Ready --timeout=5", 'invalid duration "5"'),
        ("get domains -o foo", "unable to match a printer"),
        ("resolve web", "say either --not-on NODE… or --keep NODE"),
        ("resolve web --keep a --not-on b", "say either --not-on NODE… or --keep NODE"),
        ("resolve --not-on a web", "name one domain, before --not-on"),
        ("node confirm-dead", "name one node"),
        ("node confirm-dead a b", "name one node"),
        ("store ack hv1", "unexpected words: hv1"),
        ("start", "name at least one domain"),
        ("version -o xml", "must be 'yaml' or 'json'"),
    ],
)
def test_wrong_command_lines_are_refused_before_a_server_is_asked(
    argv: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent/kubeconfig")
    code, out, err = run(*argv.split())
    assert (code, out) == (1, "")
    assert message in err


def test_client_version_needs_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent/kubeconfig")
    code, out, err = run("version", "--client")
    assert (code, err) == (0, "")
    assert out.startswith("Client Version: v")


def test_without_a_kubeconfig_the_way_to_one_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent/kubeconfig")
    code, out, err = run("get", "domains")
    assert (code, out) == (1, "")
    assert err.startswith("error: no configuration of a server was found")
    assert "hint: export KUBECONFIG=DIR/kubeconfig" in err
