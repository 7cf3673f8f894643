"""controller.doctor: is a host fit to be trusted? It is looked at; only `--probe`, when asked for, does more.

    facts       what was found out of each host, and of each pair; nothing is judged there
    findings    severity, what was seen, why it matters, the command that mends it; and what was not checked
    hostchecks  one host, as libvirt tells of it          among  hosts compared with each other
    shell       what is asked over ssh        shellchecks  what that tells
    probe       a migration, tried with a guest made for it     probed  what its end means
    report      all findings as plain values, for text, JSON and YAML
    examine     gathers the facts, every host at the same time and within bounds
    app         the composition root: the only module here that names a driver

Facts, checks and report are pure, so each check is tested from facts written down. Unknown is not well:
what could not be looked at is listed as *not checked*, with what would be needed. Nothing is written to the
cluster either: a Node's status is the leader's alone.
"""
