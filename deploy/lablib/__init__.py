"""The lab: N real libvirt hosts on one machine, for the demo and for tests on real parts.

Read in this order: `layout` (what a lab and a host are, and where their files stand), `processes` (a
process is its pid and its start time), `kernel` (the few system calls Python lacks), `daemon` (starting
what stays), `config` (the files libvirtd reads), `wires` (the switch, the links, the addresses),
`cgroups`, `disks`, `warmth`, `power` (a host's namespaces and its daemons), `session` (hosts without root),
`authority` and `transports` (TLS, ssh and passwords), `hosts` (one on and off), `misfortunes`, `status`,
`operations` (up and down), `guest` and `agent` (what hosts boot) and
`cli`. Python's standard library, iproute2,
util-linux and libvirt are all that is needed, and openssl, sshd and saslpasswd2 for `transports`.

Everything a lab makes hangs on a few processes: when a host's init is killed, the kernel ends all that
runs in its PID namespace and with it its mounts, interfaces and name. Nothing is mounted, and nothing
listens, in the machine's own namespaces; they get one interface per lab.
"""
