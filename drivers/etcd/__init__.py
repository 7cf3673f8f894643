"""The Store on a real etcd (3.4 and later), and the private etcd that `domctl serve` starts by default.

In the order of a call's way: `config` (where and who), `channel` (one gRPC channel per endpoint), `auth`
(the token), `errors` (etcd's words to ours, from one table), `calls` (deadlines, fail-over, what may be
sent twice), `client` (the Store), `watch` (a watch that outlives its streams) and `position` (how far it
is), `private` (a child etcd).

aetcd gives the generated messages and stubs only (`aetcd.rpc`); its client has no TLS, one endpoint, and
watches that die or hang, so everything above the wire is here.

Guaranteed beyond the port: no call without a deadline; a write is sent at most once; a reply of another
cluster is never taken for ours. Not here: what the keys mean, who leads, how long to wait between tries.
"""

import os

# Read by gRPC's core when it is first imported. It would write every lost connection to stderr, and
# its fork handlers get in the way of the children that we start (which only fork to exec).
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from drivers.etcd.client import EtcdStore
from drivers.etcd.config import EtcdConfig
from drivers.etcd.private import PrivateEtcd

__all__ = ["EtcdConfig", "EtcdStore", "PrivateEtcd"]
