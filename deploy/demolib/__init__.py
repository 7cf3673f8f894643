"""The demo: three libvirt hosts and domctl on one machine, converging and being repaired.

Read in this order: `cli` (options, who may run it, how it ends), `story` (what happens, in order),
`stage` (what is started, and how all of it is gone again), `cluster` (what domctl says), `witness` (what
the hosts themselves say: nothing counts as shown before they confirm it), `drift` (how things are broken)
and `screen` (a live table on a terminal, lines elsewhere). It needs only Python's standard library: the
controller is used as anybody uses it, by the `domctl` command.
"""
