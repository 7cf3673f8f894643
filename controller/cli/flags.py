"""The options of a verb, said once: what argparse parses and what help prints.

`Flags` wraps one argparse parser without its help, prefixes and exit codes: options may stand anywhere among
the words, booleans take `--wait` or `--wait=false` as kubectl's do, and a wrong command line is a
`UsageError`. Help has kubectl's form: text, examples, options, usage. Every verb module offers
`configure(flags)` and `run(args) -> int`; its words arrive as `args.words`, the command's name as
`args.command`; what `args.cleanup` holds is called when the verb has ended.
"""

from __future__ import annotations

import argparse

from controller.cli.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_TRUE = ("true", "t", "1")
_FALSE = ("false", "f", "0")


class Flags:
    """One verb's options. `usage`, `about` and `examples` are for help."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.usage = ""
        self.about = ""
        self.examples: Sequence[tuple[str, str]] = ()
        self.usage_code = 1  # of a wrong command line, where 1 means something else
        plain = argparse.HelpFormatter(
            command, width=80
        )  # one that looks for no terminal, which takes shutil
        self.parser = argparse.ArgumentParser(
            prog=command,
            add_help=False,
            allow_abbrev=False,
            exit_on_error=False,
            formatter_class=lambda prog: plain,  # argparse asks for one at every option, to check it
        )
        self._shown: list[tuple[Sequence[str], str, str]] = []
        self._global: list[tuple[Sequence[str], str, str]] = []

    def describe(self, usage: str, about: str, examples: Sequence[tuple[str, str]]) -> None:
        self.usage, self.about, self.examples = usage, about, examples

    def value(self, *names: str, default: Any = "", to: Callable[[str], Any] = str, text: str = "") -> None:
        """An option with a value."""
        self.parser.add_argument(*names, default=default, type=to)
        shown = f"'{default}'" if isinstance(default, str) and to is str else str(default)
        self._show(names, "''" if default is None else shown, text)

    def values(self, *names: str, text: str, nargs: str | None = None) -> None:
        """An option that may be repeated, or hold several values parted by commas. With nargs "+" it also
        takes all words that follow it."""
        if nargs is None:
            self.parser.add_argument(*names, action="append", default=[])
        else:
            self.parser.add_argument(*names, action="extend", nargs=nargs, default=[])
        self._show(names, "[]", text)

    def switch(self, *names: str, text: str, default: bool = False) -> None:
        """A boolean: `--name`, `--name=true`, `--name=false`."""
        dest = next(n for n in names if n.startswith("--")).lstrip("-").replace("-", "_")
        on = [*names, *(f"{name}={word}" for name in names for word in _TRUE)]
        off = [f"{name}={word}" for name in names for word in _FALSE]
        self.parser.add_argument(*on, dest=dest, action="store_const", const=True, default=default)
        self.parser.add_argument(*off, dest=dest, action="store_const", const=False, default=default)
        self._show(names, str(default).lower(), text)

    def connection(self, *, namespace: bool = True) -> None:
        """Options of every verb that talks to a server (`domctl options`)."""
        before = self._shown
        self._shown = self._global
        if namespace:
            self.value("-n", "--namespace", text="If present, the namespace scope for this CLI request")
        for name, text in CONNECTION_OPTIONS:
            self.value(name, text=text)
        self.values("--as-group", text="Group to impersonate, may be repeated")
        self.value("--request-timeout", text=_REQUEST_TIMEOUT)
        self.switch("--insecure-skip-tls-verify", text=_INSECURE)
        self.value("-v", "--v", default=0, to=int, text="number for the log level verbosity (6: requests)")
        self._shown = before

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Raises UsageError. What is no option becomes `words`."""
        after: list[str] = []
        argv = list(argv)
        if "--" in argv:
            cut = argv.index("--")
            argv, after = argv[:cut], argv[cut + 1 :]
        try:
            args, rest = self.parser.parse_known_args(argv)
        except argparse.ArgumentError as error:
            name = error.argument_name or ""
            raise UsageError(f"{name}: {error.message}\n{self._see()}", exit_code=self.usage_code) from None
        unknown = [word for word in rest if word.startswith("-") and word != "-"]
        if unknown:
            name = unknown[0].split("=")[0]
            what = "flag" if name.startswith("--") else "shorthand flag"
            raise UsageError(f"unknown {what}: {name}\n{self._see()}", exit_code=self.usage_code)
        args.words = [*rest, *after]
        args.command = self.command
        args.cleanup = []
        return args

    def names(self) -> list[tuple[str, str]]:
        """Every option by its long name, with the first sentence of its text."""
        shown = [*self._shown, *self._global]
        return sorted((names[-1], text.partition(". ")[0]) for names, _, text in shown)

    def long_name(self, name: str) -> str:
        """`--output` of `-o`; itself if there is none."""
        shown = [*self._shown, *self._global]
        return next((names[-1] for names, _, _ in shown if name in names), name)

    def takes_value(self, name: str) -> bool:
        """Whether a value follows the option as a word of its own."""
        actions = self.parser._option_string_actions
        return name in actions and actions[name].nargs != 0

    def help(self) -> str:
        parts = [self.about.strip(), ""]
        if self.examples:
            parts.append("Examples:")
            parts += [f"  # {what}\n  {command}\n" for what, command in self.examples]
        if self._shown:
            parts.append("Options:")
            parts += self._option_lines(self._shown)
        parts += ["Usage:", f"  {self.command} {self.usage}".rstrip(), ""]
        if self._global:
            parts.append('Use "domctl options" for a list of global command-line options.')
        return "\n".join(parts).rstrip() + "\n"

    def global_help(self) -> str:
        head = "The following options can be passed to any command that talks to a server:\n"
        return "\n".join([head, *self._option_lines(self._global)]).rstrip() + "\n"

    def _show(self, names: Sequence[str], default: str, text: str) -> None:
        self._shown.append((names, default, text))

    def _option_lines(self, shown: list[tuple[Sequence[str], str, str]]) -> list[str]:
        by_long_name = sorted(shown, key=lambda entry: entry[0][-1])
        return [f"    {', '.join(names)}={default}:\n\t{text}\n" for names, default, text in by_long_name]

    def _see(self) -> str:
        return f"See '{self.command} --help' for usage."


CONNECTION_OPTIONS = (
    ("--kubeconfig", "Path to the kubeconfig file to use for CLI requests."),
    ("--context", "The name of the kubeconfig context to use"),
    ("--cluster", "The name of the kubeconfig cluster to use"),
    ("--user", "The name of the kubeconfig user to use"),
    ("--server", "The address and port of the API server"),
    ("--token", "Bearer token for authentication to the API server"),
    ("--certificate-authority", "Path to a cert file for the certificate authority"),
    ("--client-certificate", "Path to a client certificate file for TLS"),
    ("--client-key", "Path to a client key file for TLS"),
    ("--tls-server-name", "Server name to use for server certificate validation."),
    ("--as", "Username to impersonate for the operation"),
    ("--as-uid", "UID to impersonate for the operation"),
)
_REQUEST_TIMEOUT = (
    "The length of time to wait before giving up on a single server request, zero for ever. "
    "If empty, 60s, and watches do not end."
)
_INSECURE = "If true, the server's certificate will not be checked for validity."


def duration_s(text: str) -> float:
    """`60s`, `2m`, `1m30s`, `500ms`, `1.5h`, `0`; raises ValueError. What negative means is the verb's."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text.removeprefix("-")
    if rest == "0":
        return 0.0
    total = 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = len(rest[digits:]) - len(rest[digits:].lstrip("hms"))
        name = rest[digits : digits + unit]
        if not digits or name not in _UNITS:
            raise ValueError(text)
        total += float(rest[:digits]) * _UNITS[name]
        rest = rest[digits + unit :]
    return sign * total if text.removeprefix("-") else _refuse(text)


def duration(text: str) -> float:
    """`duration_s` for argparse, which shows the message."""
    try:
        return duration_s(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'invalid duration "{text}": write 60s, 2m or 1h30m') from None


def _refuse(text: str) -> float:
    raise ValueError(text)


def listed(values: Sequence[str]) -> list[str]:
    """`a,b` and repeated options as one list."""
    return [part for value in values for part in value.split(",") if part]
