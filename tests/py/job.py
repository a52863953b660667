"""A worker without a socket: writes its process into a folder while it runs."""

import os
import sys
import time

folder = sys.argv[1]
assert "LISTEN_FDS" not in os.environ and "NODE_CHANNEL_FD" not in os.environ
open(os.path.join(folder, str(os.getpid())), "w").close()
while not os.path.exists(os.path.join(folder, "fail")):
    time.sleep(0.05)
sys.exit(3)
