"""The files a host's libvirtd reads at its start: pure texts, and one function that lays them out.

QEMU needs to run where there is no systemd, no AppArmor and no cgroup of its own; hence no controllers,
no device namespaces, no security driver, and logs in plain files rather than through virtlogd. There is
no authentication, unless the lab was made with doors (`transports`): the only machines that can reach a host
are this one and the other hosts of its lab, for hosts have no default route. (Local users can; a lab is not
for machines shared with the untrusted.)
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from .layout import ROOT_HOME, TCP_PORT, Host, Lab

# libvirtd looks this account up before it reads that qemu.conf says root; where only libvirt-daemon is
# installed, without libvirt-daemon-system, the machine has none.
ACCOUNT = "libvirt-qemu"

QEMU_CONF = """\
user = "root"
group = "root"
cgroup_controllers = []
namespaces = []
security_driver = "none"
remember_owner = 0
stdio_handler = "file"
"""

# What libvirtd and its children get: nothing of whoever ran `lab`.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SASL_CONF_PATH": "/etc/libvirt/sasl",  # the host's own; where it has none there are no passwords
}

POOL_XML = """\
<pool type='dir'>
  <name>default</name>
  <uuid>{uuid}</uuid>
  <source/>
  <target><path>{path}</path></target>
</pool>
"""


def libvirtd_conf(host: Host) -> str:
    return f"""\
listen_tls = 0
listen_tcp = 1
tcp_port = "{TCP_PORT}"
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
host_uuid = "{host.host_uuid}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""


def network_xml(host: Host, nat: bool) -> str:
    """libvirt's usual `default` network. Without NAT it is one that needs no firewall rule at all: for
    isolated networks, too, libvirt sets up its chains in the nat table."""
    forward = "<forward mode='nat'/>" if nat else "<forward mode='open'/>"
    return f"""\
<network>
  <name>default</name>
  <uuid>{_derived(host, "network")}</uuid>
  {forward}<bridge name='virbr0' stp='on' delay='0'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
  </ip>
</network>
"""


def hosts_file(lab: Lab) -> str:
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    lines += [f"{host.address} {host.name}" for host in lab.hosts]
    return "\n".join(lines) + "\n"


def write_files(lab: Lab, host: Host) -> None:
    """Lay out a host's directories and files as a fresh installation has them."""
    etc = host.dir / "etc-libvirt"
    files = {
        "libvirtd.conf": libvirtd_conf(host),
        "qemu.conf": QEMU_CONF,
        "qemu/networks/default.xml": network_xml(host, nat=True),
        "storage/default.xml": POOL_XML.format(uuid=_derived(host, "pool"), path="/var/lib/libvirt/images"),
    }
    for name, text in files.items():
        path = etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for kind in ("qemu/networks", "storage"):
        autostart = etc / kind / "autostart"
        autostart.mkdir()
        (autostart / "default.xml").symlink_to(f"/etc/libvirt/{kind}/default.xml")
    for name in ("lib/images", "cache", "log/serial", "run"):
        (host.dir / name).mkdir(parents=True)
    (host.dir / "hosts").write_text(hosts_file(lab))
    passwd = _with(Path("/etc/passwd"), ACCOUNT, "x:64055:64055::/nonexistent:/usr/sbin/nologin")
    (host.dir / "passwd").write_text(_with_home(passwd, ROOT_HOME) if lab.transports else passwd)
    (host.dir / "group").write_text(_with(Path("/etc/group"), ACCOUNT, "x:64055:"))


def write_session_files(host: Host) -> None:
    """The same for a session-mode libvirtd, which has no default network and listens on no port."""
    etc = host.dir / "etc/libvirt"
    images = host.dir / "lib/images"
    for path in (etc / "storage/autostart", images, host.dir / "lib/serial", host.dir / "cache"):
        path.mkdir(parents=True)
    log = host.dir / "libvirtd.log"
    (etc / "libvirtd.conf").write_text(f'host_uuid = "{host.host_uuid}"\nlog_outputs = "3:file:{log}"\n')
    (etc / "qemu.conf").write_text('stdio_handler = "file"\nsecurity_driver = "none"\n')
    (etc / "storage/default.xml").write_text(POOL_XML.format(uuid=_derived(host, "pool"), path=images))
    (etc / "storage/autostart/default.xml").symlink_to(etc / "storage/default.xml")


def _with(path: Path, name: str, rest: str) -> str:
    text = path.read_text()
    if any(line.startswith(f"{name}:") for line in text.splitlines()):
        return text
    return f"{text.rstrip()}\n{name}:{rest}\n"


def _with_home(passwd: str, home: str) -> str:
    """Another home for root. ssh looks for its files there, whatever HOME says."""
    return re.sub(r"^(root:(?:[^:\n]*:){4})[^:\n]*", rf"\g<1>{home}", passwd, count=1, flags=re.MULTILINE)


def _derived(host: Host, what: str) -> uuid.UUID:
    return uuid.uuid5(uuid.UUID(host.host_uuid), what)
