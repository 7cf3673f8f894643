"""ssh's ProxyCommand: connects, makes the socket safe, hands it to ssh, and is gone. A program of its own.

    dial.py HOST PORT

A command that was sent into a cut link must not be carried out when the link heals after the controller, and
with it ssh, was killed (safety: leaders). ssh cannot be told to set the two socket options that prevent it,
but takes a connected socket from whoever runs as its ProxyCommand (ProxyUseFdpass). It runs by its path and
without site-packages, so it imports nothing but the standard library.
"""

import array
import socket
import struct
import sys

USER_TIMEOUT_MS = 10_000  # as for sockets of our own process
CONNECT_TIMEOUT_S = 4.0


def main(host: str, port: str) -> int:
    try:
        connection = socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S)
    except OSError as error:
        # As ssh itself would say it: this is read by whoever reads ssh's words.
        sys.stderr.write(f"ssh: connect to host {host} port {port}: {error.strerror or error}\n")
        return 255
    connection.setblocking(True)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    with socket.socket(fileno=1) as ssh:
        passed = array.array("i", [connection.fileno()])
        ssh.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
