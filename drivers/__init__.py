"""drivers: how the world is touched. Ports first, then one package per technology.

    errors                  everything that can go wrong, and what to do next
    store                   the Store port: etcd (real), memory (simulation)
    hypervisor              the Hypervisor port: libvirt
    shell                   the Shell port: read-only commands on a host (ssh, for `domctl doctor`)
    inspection              the Inspector port: what a host says before it is trusted

The controller knows the ports only; the composition root alone names packages.
"""
