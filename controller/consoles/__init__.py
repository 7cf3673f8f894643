"""controller.consoles: what guests write to their consoles, kept for a while and shared.

    ring     the last bytes of one console, and when they came; pure
    lines    which of them a reader of logs wants, and with which times; pure
    tape     one console: its ring, who reads along, who may write, and why nothing comes
    desk     all tapes of this process, as the API finds them; outlives a term of leadership
    keeper   the leader's: which consoles are to be open, where, and opening them

A console has one reader at its host (libvirt allows no more), which is the leader; everybody else reads along
on its tape, at an offset of his own, so that a slow reader costs nothing and a dead one nothing either. Only
what `record: true` asks for is kept; any other console is open while somebody is attached to it. The rings
are in memory: what a leader kept ends with its process, and another one begins anew.
"""
