"""`domctl serve`: the command line of the server; the server itself is started by `controller.cli.main`."""

from __future__ import annotations

from controller.cli.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from controller.cli.flags import Flags

ABOUT = """Run the controller and its API server.

 On the first start a certificate authority, certificates and DIR/kubeconfig are made. Without etcd endpoints
 in the configuration file, a private etcd is started with its data in DIR. When it ends, domains run on."""
EXAMPLES = (
    ("Start it", "domctl serve --data-dir /var/lib/domctl --listen 127.0.0.1:6443"),
    ("Then, in another terminal", "export KUBECONFIG=/var/lib/domctl/kubeconfig"),
)
OIDC = (  # as kube-apiserver has them; the file is domctl's own
    ("issuer-url", "The issuer whose JWTs are accepted as bearer tokens, https."),
    ("client-id", "For whom these must be: their aud."),
    ("username-claim", "The claim that is the user, sub by default."),
    ("username-prefix", "Put before it, ISSUER# by default, - for nothing."),
    ("groups-claim", "The claim that lists groups; none by default."),
    ("groups-prefix", "Put before each group."),
    ("required-claim", "CLAIM=VALUE that must be there; several with commas between."),
    ("signing-algs", "The accepted algorithms, with commas between; RS256 by default."),
    ("ca-file", "The authority of the issuer's own certificate; the system's by default."),
    ("jwks-file", "The issuer's keys, where they are not to be fetched from it."),
)
DEFAULT_LISTEN = "127.0.0.1:6443"


def configure(flags: Flags) -> None:
    flags.describe("--data-dir DIR [--listen HOST:PORT] [--config FILE]", ABOUT, EXAMPLES)
    flags.value("--data-dir", text="Where certificates, the kubeconfig and a private etcd's data stand.")
    flags.value("--listen", default=DEFAULT_LISTEN, text="Where the API is served, HOST:PORT.")
    flags.value("--config", text="The configuration file, for everything else.")
    for name, text in OIDC:
        flags.value(f"--oidc-{name}", text=text)


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """Raises UsageError for what needs no look at the machine."""
    if args.words:
        raise UsageError(f"unexpected words: {' '.join(args.words)}")
    if not args.data_dir:
        raise UsageError("--data-dir is required: where certificates and data are kept")
    host, colon, port = args.listen.rpartition(":")
    if not colon or not host.strip("[]") or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise UsageError(f'--listen must be HOST:PORT, is "{args.listen}"')
    return args
