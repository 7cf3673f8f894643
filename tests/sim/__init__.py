"""A world in virtual time, in which the production shell runs unmodified and every bad thing happens.

    network      who reaches whom, and what is in flight
    connection   one TCP connection to libvirtd: slots, keep-alive, and what outlives its sender
    definition   domain XML, as a host reads and rewrites it
    domain       one domain, as its host has it
    job          the lock that serialises what is done to one domain
    host         one host's ground truth: machine, libvirtd, domains, events
    desk         how requests reach libvirtd, wait and are answered
    operations   what libvirtd does when it is asked
    guests       what guests do by themselves
    migration    a domain on its way from one host to another
    hypervisor   the Hypervisor port above all of it, for one client
    virsh        an administrator with another hand on the same hosts

Everything random comes from named generators; nothing depends on hashes, ids or the wall clock.
"""
