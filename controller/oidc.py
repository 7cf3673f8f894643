"""Settings of the OIDC issuer whose JWTs are accepted: of the configuration file, or flags of `domctl serve`.

Names and meaning are kube-apiserver's (`--oidc-issuer-url` and so on). Added is a file of keys, for issuers
that the controller cannot reach. Algorithms are those with a public key alone: where a shared secret is
accepted too, anybody who has the issuer's public key can sign with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import UNSET, UnsetType, field

from specs.meta import Struct
from specs.problems import Keys

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_LISTS: Final = frozenset({"signing_algs"})
Add = Callable[[Keys, str], None]


class OidcSection(Struct, frozen=True, kw_only=True):
    """issuer_url: Whose tokens are accepted, https. client_id: Whom they must be for. username_prefix:
    "-" for none; by default ISSUER# unless the claim is email. jwks_file: The issuer's keys, where they are
    not to be fetched from it."""

    issuer_url: str = ""
    client_id: str = ""
    username_claim: str = "sub"
    username_prefix: str | UnsetType = UNSET
    groups_claim: str = ""
    groups_prefix: str = ""
    required_claims: dict[str, str] = field(default_factory=dict)
    signing_algs: list[str] = field(default_factory=lambda: ["RS256"])
    ca_file: str = ""
    jwks_file: str = ""


@dataclass(frozen=True, slots=True)
class OidcConfig:
    """`required`: claims that must be there with these values. `ca_file` "": the system's authorities."""

    issuer: str
    client_id: str
    username_claim: str = "sub"
    username_prefix: str = ""
    groups_claim: str = ""
    groups_prefix: str = ""
    required: tuple[tuple[str, str], ...] = ()
    algorithms: tuple[str, ...] = ("RS256",)
    ca_file: str = ""
    jwks_file: str = ""


# The flags of `domctl serve`, as names of parsed arguments, and the field of the section that each sets.
FLAGS: Final[Mapping[str, str]] = {
    f"oidc_{name}": setting
    for name, setting in {
        **{f: f for f in OidcSection.__struct_fields__ if f != "required_claims"},
        "required_claim": "required_claims",
    }.items()
}


def with_flags(section: OidcSection, flags: Mapping[str, str], add: Add) -> OidcSection:
    """The section as the command line has it; lists and pairs stand there with commas."""
    given: dict[str, object] = {}
    for flag, setting in FLAGS.items():
        if flag not in flags:
            continue
        words = flags[flag].split(",")
        if setting == "required_claims":
            pairs = [word.partition("=") for word in words]
            if not all(name and sign for name, sign, _ in pairs):
                add(("oidc", "requiredClaims"), "must be CLAIM=VALUE, with commas between several")
            given[setting] = {name: value for name, _, value in pairs}
        else:
            given[setting] = words if setting in _LISTS else flags[flag]
    fields = {name: getattr(section, name) for name in section.__struct_fields__}
    return OidcSection(**{**fields, **given})


def checked(section: OidcSection, directory: Path, add: Add) -> OidcConfig | None:
    """None without an issuer. `add` hears of what is wrong."""
    if section == OidcSection():
        return None
    url = urlsplit(section.issuer_url)
    if url.scheme != "https" or not url.hostname or url.query or url.fragment:
        add(("oidc", "issuerUrl"), "must be https://HOST[/PATH]: whoever is in between makes users otherwise")
    if not section.client_id:
        add(("oidc", "clientId"), "is required: tokens for others would be accepted without it")
    wrong = [name for name in section.signing_algs if name not in ALGORITHMS]
    if wrong or not section.signing_algs:
        add(("oidc", "signingAlgs"), f"must be some of {', '.join(ALGORITHMS)}")
    files = {name: getattr(section, name) for name in ("ca_file", "jwks_file")}
    for name, path in files.items():
        if path and not (directory / path).is_file():
            add(("oidc", name.replace("_f", "F")), f"no such file: {directory / path}")
    prefix = section.username_prefix
    if isinstance(prefix, UnsetType):
        prefix = "" if section.username_claim == "email" else f"{section.issuer_url}#"
    return OidcConfig(
        issuer=section.issuer_url,
        client_id=section.client_id,
        username_claim=section.username_claim,
        username_prefix="" if prefix == "-" else prefix,
        groups_claim=section.groups_claim,
        groups_prefix=section.groups_prefix,
        required=tuple(sorted(section.required_claims.items())),
        algorithms=tuple(section.signing_algs),
        **{name: str(directory / path) if path else "" for name, path in files.items()},
    )
