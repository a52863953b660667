"""A worker that misuses its channel: rude.py HOW THEN MARK GOOD [ARGUMENT...]

THEN it ends ("exit", code 3) or does nothing more ("stay"). In slot 1, and only as long as there is no file MARK (which it then writes; "-": never). Every
other worker is the program GOOD.
"""

import array
import os
import socket
import sys
import time

how, then, mark, *good = sys.argv[1:]
if os.environ["NODE_APP_INSTANCE"] != "1" or os.path.exists(mark):
    os.execv(good[0], good)
if mark != "-":
    open(mark, "x").close()

channel = socket.socket(fileno=int(os.environ["NODE_CHANNEL_FD"]))
channel.setblocking(True)


def descriptors():
    null = os.open("/dev/null", os.O_RDONLY)
    rights = array.array("i", [null] * 250)
    for _ in range(16):
        channel.sendmsg([b"\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


# A frame that has begun, in either framing.
half = b'{"cmd":"NODE_CLUSTER","act":"onl'
if os.environ["NODE_CHANNEL_SERIALIZATION_MODE"] == "advanced":
    half = b"\x00\x00\x00\x50\xff\x0fo"

ways = {
    "noise": lambda: channel.sendall(b"no line ends here and none is JSON\n\x00\xff\n" * 10000),
    "length": lambda: channel.sendall(b"\xff\xff\xff\xff and more"),
    "line": lambda: [channel.sendall(b"x" * 1000000) for _ in range(100)],
    "descriptors": descriptors,
    "half": lambda: channel.sendall(half),
    "deaf": lambda: [channel.sendall(b'{"cmd":"NODE_HANDLE"}\n' * 10000) for _ in range(1000)],
}
try:
    ways[how]()
except OSError:
    pass  # it was cut off
if then == "exit":
    sys.exit(3)
time.sleep(600)
