"""Which URIs reach libvirt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.uri import ParsedUri, UriNotAllowed, parse_migration_uri, parse_uri

ALLOWED = {
    "qemu:///system": ParsedUri("qemu", "unix", "", 0, "/system", ""),
    "qemu:///session": ParsedUri("qemu", "unix", "", 0, "/session", ""),
    "qemu+unix:///system?socket=/run/x-1/libvirt-sock": ParsedUri(
        "qemu", "unix", "", 0, "/system", "/run/x-1/libvirt-sock"
    ),
    "qemu+unix:///session?socket=/a": ParsedUri("qemu", "unix", "", 0, "/session", "/a"),
    "qemu+tcp://node-1.example.org/system": ParsedUri(
        "qemu", "tcp", "node-1.example.org", 16509, "/system", ""
    ),
    "qemu+tcp://10.0.0.1:1700/system": ParsedUri("qemu", "tcp", "10.0.0.1", 1700, "/system", ""),
    "qemu+tcp://[2001:db8::1]:1700/system": ParsedUri("qemu", "tcp", "2001:db8::1", 1700, "/system", ""),
    "qemu+tcp://[::1]/session": ParsedUri("qemu", "tcp", "::1", 16509, "/session", ""),
    "lxc:///system": ParsedUri("lxc", "unix", "", 0, "/system", ""),
    "lxc+tcp://h/system": ParsedUri("lxc", "tcp", "h", 16509, "/system", ""),
    "xen+tcp://h/system": ParsedUri("xen", "tcp", "h", 16509, "/system", ""),
    "vz:///system": ParsedUri("vz", "unix", "", 0, "/system", ""),
    "test:///default": ParsedUri("test", "local", "", 0, "/default", ""),
    "test:///srv/worlds/one.xml": ParsedUri("test", "local", "", 0, "/srv/worlds/one.xml", ""),
    "test+tcp://h/default": ParsedUri("test", "tcp", "h", 16509, "/default", ""),
    "qemu+tls://h/system": ParsedUri("qemu", "tls", "h", 16514, "/system", ""),
    "qemu://h/system": ParsedUri("qemu", "tls", "h", 16514, "/system", ""),
    "qemu+tls://[2001:db8::1]:1700/session": ParsedUri("qemu", "tls", "2001:db8::1", 1700, "/session", ""),
    "qemu+ssh://h/system": ParsedUri("qemu", "ssh", "h", 22, "/system", ""),
    "qemu+ssh://virt_1@h.example.org:2222/system": ParsedUri(
        "qemu", "ssh", "h.example.org", 2222, "/system", "", "virt_1"
    ),
    "lxc+ssh://root@[::1]/system": ParsedUri("lxc", "ssh", "::1", 22, "/system", "", "root"),
    "qemu+ext:///system": ParsedUri("qemu", "ext", "", 0, "/system", ""),
    "qemu+ext://h/system": ParsedUri("qemu", "ext", "h", 0, "/system", ""),
    "qemu+ext://h:5/session": ParsedUri("qemu", "ext", "h", 5, "/session", ""),
    "test://h/default": ParsedUri("test", "tls", "h", 16514, "/default", ""),
    "test+unix:///default?socket=/s": ParsedUri("test", "unix", "", 0, "/default", "/s"),
}


@pytest.mark.parametrize("uri", ALLOWED)
def test_an_allowed_uri_means_what_it_says(uri: str) -> None:
    assert parse_uri(uri) == ALLOWED[uri]


@pytest.mark.parametrize("uri", ALLOWED)
def test_what_libvirt_is_given_means_the_same(uri: str) -> None:
    assert parse_uri(parse_uri(uri).text) == ALLOWED[uri]


@pytest.mark.parametrize(
    "uri",
    [
        "qemu+ext:///system?command=/bin/sh",
        "qemu+ssh://h/system?command=x&no_verify=1",
        "qemu+ssh://h/system?known_hosts=/a",
        "qemu+ssh://h/system?keyfile=/a",
        "qemu+ssh://h/system?socket=/a",
        "qemu+ssh://u:secret@h/system",
        "qemu+ssh://-oProxyCommand=x@h/system",
        "qemu+ssh://a@b@h/system",
        "qemu+ssh://@h/system",
        "qemu+ext://u@h/system",
        "qemu+libssh://h/system",
        "qemu+libssh2://h/system",
        "qemu+tls://u@h/system",
        "qemu+tls://h/system?no_verify=1",
        "qemu+tls://h/system?pkipath=/a",
        "qemu+tcp://root@h/system",
        "qemu+tcp://h/system?no_verify=1",
        "qemu+tcp://h/system?socket=/a",
        "qemu+unix:///system?socket=/a&command=b",
        "qemu+unix:///system?command=/a",
        "qemu+unix://h/system",
        "qemu+tcp://h/embed?root=/tmp",
        "qemu:///embed",
        "qemu:///system#x",
        "qemu+tcp://h/",
        "qemu+tcp://h",
        "lxc:///session",
        "esx://h/",
        "test:///a/../b.xml",
        "test:///a.txt",
    ],
)
def test_everything_else_that_libvirt_would_take_is_not_allowed(uri: str) -> None:
    with pytest.raises(UriNotAllowed):
        parse_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "qemu",
        "/system",
        "QEMU:///system",
        "qemu+tcp:///system",
        "qemu+tls:///system",
        "qemu+ssh:///system",
        "qemu+ssh://u@/system",
        "qemu+ssh://u@-oProxyCommand=x/system",
        "qemu+tcp://-oProxyCommand=x/system",
        "qemu+tcp://-h/system",
        "qemu+tcp://h:/system",
        "qemu+tcp://h:0/system",
        "qemu+tcp://h:65536/system",
        "qemu+tcp://h:+1/system",
        "qemu+tcp://[::1/system",
        "qemu+tcp://[::1%lo]/system",
        "qemu+tcp://[::1]x/system",
        "qemu+tcp://a b/system",
        "qemu+tcp://h/system\n",
        "qemu+tcp://h\x00/system",
        "qemu+tcp://häuser/system",
        "qemu+tcp://h%2f/system",
        "qemu+unix:///system?socket=relative",
        "qemu+unix:///system?socket=/a/../b",
        "qemu+unix:///system?socket=/" + "a" * 200,
        "qemu+tcp://" + "a" * 600 + "/system",
    ],
)
def test_what_is_malformed_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_uri(uri)


@given(
    st.text(max_size=60) | st.from_regex(r"(qemu|test)(\+[a-z]+)?://[a-z@:\[\]0-9.-]{0,9}/[a-z?=&/.]{0,20}")
)
def test_no_text_is_anything_but_refused_or_written_again_the_same(text: str) -> None:
    try:
        parsed = parse_uri(text)
    except ValueError:
        return
    assert parse_uri(parsed.text) == parsed
    assert not set(parsed.text) & set("#&%;'\"\\$` \n")
    assert "@-" not in parsed.text


MIGRATION_ALLOWED = {
    "qemu+tcp://h2/system": "qemu+tcp://h2/system",
    "qemu+tcp://H2:16509/system": "qemu+tcp://h2/system",
    "qemu+tcp://10.0.0.1:1700/system": "qemu+tcp://10.0.0.1:1700/system",
    "qemu+tls://h2.example.org/system": "qemu+tls://h2.example.org/system",
    "qemu://h2:16514/system": "qemu+tls://h2/system",
    "qemu+ssh://h2/system": "qemu+ssh://h2/system",
    "qemu+ssh://mover_1@[2001:DB8::1]:2222/system": "qemu+ssh://mover_1@[2001:db8::1]:2222/system",
    "qemu+unix:///system?socket=/run/h2.sock": "qemu+unix:///system?socket=/run/h2.sock",
}


@pytest.mark.parametrize("uri", MIGRATION_ALLOWED)
def test_a_migration_uri_names_the_way_to_another_host(uri: str) -> None:
    assert parse_migration_uri(uri) == MIGRATION_ALLOWED[uri]
    assert parse_migration_uri(MIGRATION_ALLOWED[uri]) == MIGRATION_ALLOWED[uri]


@pytest.mark.parametrize(
    "uri",
    [
        "qemu:///system",
        "qemu+unix:///system",
        "qemu+unix://h/system?socket=/a",
        "lxc+tcp://h/system",
        "qemu+ext://h/system?command=/bin/sh",
        "qemu+ssh://h/system?command=/bin/sh",
        "qemu+ssh://h/system?no_verify=1",
        "qemu+ssh://h/system?netcat=x",
        "qemu+ssh://-oProxyCommand=x@h/system",
        "qemu+ssh://user:secret@h/system",
        "qemu+ssh://a@b@h/system",
        "qemu+ssh://@h/system",
        "qemu+tcp://root@h/system",
        "qemu+tls://h/system?no_verify=1",
        "qemu+libssh2://h/system",
        "qemu+tcp://h/embed",
    ],
)
def test_a_migration_uri_runs_nothing_and_trusts_nobody_unseen(uri: str) -> None:
    with pytest.raises(UriNotAllowed):
        parse_migration_uri(uri)


@pytest.mark.parametrize("uri", ["", "h2", "qemu+ssh://-oProxyCommand=x/system", "qemu+tcp:///system"])
def test_a_malformed_migration_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_migration_uri(uri)
