"""controller: what to do about it. Modules in the order of the data's way; read their first lines in turn.

    limits, world, keys, model      bounds; time and ids; where things stand in etcd; the records kept there
    objects, birth                  the users' objects in the store
    sealedstore                     what may hold secrets, as ciphertext below everything else
    storewatch, election, ledger    may the store be believed; who leads; every write, fenced
    informer → records → cache      etcd to memory, with expectations, attempts, capacity, underway
    observer, nodewatcher → cache   hosts to memory
    gatherer → figures              how busy hosts and domains are; nothing is decided by it
    plan/                           pure: snapshot → verdicts (actions, or reasons for doing nothing)
    workqueue, reconciler, turns    keys in, one pass out; whose turn it is at each node
    executor, faults                one action, step by step, with a fault point at each
    hands, recording, calls, departures   what steps act with; those of etcd, of nodes, of migrations
    consoles/                       what guests write to their consoles, recorded and shared
    status, writer, events, metrics, figureseries   what users and Prometheus see
    nodes, trust                    what is due for Nodes, and while the store is in doubt
    leader, app, config, logs, pki  one term put together; the process; its configuration and certificates
    oidc                            whose JWTs are accepted
    api/, cli/                      the server, and the client (which imports no server)

Deliberately empty of imports: the client must start in milliseconds.
"""
