"""`domctl console`: a domain's console on this terminal, until Ctrl+] is pressed.

The terminal is raw meanwhile: every key but Ctrl+] goes to the guest, Ctrl-C too, and what it writes is shown
as it is. Others may be attached to the same console and see the same. Where standard input is no terminal,
what comes there is typed, and the output goes on until it is ended. The end is always told, and the terminal
always set back.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys

from controller.cli.client import connect
from controller.cli.errors import CliError, Unreached, printable
from controller.cli.resources import DOMAINS, domain_names
from controller.cli.websocket import WebSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from controller.cli.flags import Flags

PROTOCOL = "v5.channel.k8s.io"
ESCAPE = b"\x1d"  # Ctrl+]
SILENCE_S = 60.0  # the server gives a sign of life every 20 s
STDIN, STDOUT, STATUS, CLOSE = 0, 1, 3, 255
EXAMPLES = (
    ("The console of a domain", "domctl console web-1"),
    ("Of several, the one of this name", "domctl console web-1 --console=debug"),
)
ABOUT = (
    "Show the console of a domain, and type on it. Ctrl+] leaves it.\n\n"
    " It need not be recorded (that is for domctl logs). Others may be attached to it at the same time."
)


def configure(flags: Flags) -> None:
    flags.describe("NAME [options]", ABOUT, EXAMPLES)
    flags.value("-c", "--console", text="The console's name in the spec. By default, the first recorded one.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    (name,) = domain_names(args.words, "name one domain: domctl console NAME", most=1)
    client = connect(args)
    query = [("stdin", "true"), ("stdout", "true"), ("tty", "true")]
    query += [("container", args.console)] if args.console else []
    socket = WebSocket(client, DOMAINS.path(client.namespace, name, "console"), query, PROTOCOL)
    args.cleanup.append(socket.close)
    keyboard = sys.stdin.fileno()
    if os.isatty(keyboard):
        sys.stderr.write(f"Connected to {printable(name)}. Ctrl+] leaves it.\n")
        sys.stderr.flush()
    with _raw(keyboard):
        why = _converse(socket, keyboard)
    if why:
        raise CliError(why)
    if os.isatty(keyboard):
        sys.stderr.write("\n")
    return 0


def _converse(socket: WebSocket, keyboard: int) -> str:
    """Until either side ends it; why the server did, if it was no success."""
    listens = True
    while True:
        sources: list[int] = [socket.fileno(), *([keyboard] if listens else [])]
        ready = select.select(sources, [], [], 0 if socket.waiting else SILENCE_S)[0]
        if not ready and not socket.waiting:
            raise Unreached("the server has been silent for a minute: the connection is lost")
        if socket.waiting or socket.fileno() in ready:
            message = socket.receive()
            if message is None:
                return ""
            channel, data = message
            if channel == STATUS:
                return _told(data)
            if channel == STDOUT:
                _show(data)
        if keyboard in ready:
            typed = os.read(keyboard, 4096)
            before, escape, _ = typed.partition(ESCAPE)
            if before:
                socket.send(STDIN, before)
            if escape:
                return ""
            if not typed:
                listens = False
                socket.send(CLOSE, bytes([STDIN]))


def _show(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _told(data: bytes) -> str:
    try:
        status = json.loads(data)
    except ValueError:
        return "the server ended it, and did not say why"
    return (
        "" if status.get("status") == "Success" else printable(str(status.get("message") or "it was ended"))
    )


@contextlib.contextmanager
def _raw(keyboard: int) -> Iterator[None]:
    """Every key as it is pressed, nothing shown by the terminal itself."""
    if not os.isatty(keyboard):
        yield
        return
    try:
        import termios  # noqa: PLC0415 - not on every system
        import tty  # noqa: PLC0415
    except ImportError:
        raise CliError(
            "there is no terminal here that domctl can use: kubectl attach -it may have one"
        ) from None
    before = termios.tcgetattr(keyboard)
    try:
        tty.setraw(keyboard)
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
