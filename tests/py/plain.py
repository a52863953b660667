"""An HTTP server on the socket that it is given as descriptor 3, with nothing but Python's own library.

NOTIFY=1   says READY=1, STATUS= and every half of WATCHDOG_USEC WATCHDOG=1
/leave     answers, and then accepts nothing more; a second later it ends
/silent    answers, and then says WATCHDOG=1 no more;  /stop: answers, says STOPPING=1 and ends a second later
"""

import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

silent = threading.Event()
leaving = threading.Event()


def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: an answer that was begun can't be given by another worker

    def address_string(self):
        return "a worker's private socket"

    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if leaving.is_set():
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/slow":
            time.sleep(int(query.partition("=")[2]) / 1000)
        if path == "/silent":
            silent.set()
        if path == "/leave":
            leaving.set()
            self.server.socket.shutdown(socket.SHUT_RD)
            threading.Timer(1, os._exit, [0]).start()
        if path == "/stop":
            say("STOPPING=1")
            threading.Timer(1, os._exit, [0]).start()
        if path == "/env":
            return self.answer(json.dumps(dict(os.environ) | {"pid": os.getpid()}))
        self.answer(json.dumps({"pid": os.getpid(), "path": self.path, "headers": self.headers.items()}))

    def do_POST(self):
        self.answer(str(len(self.rfile.read(int(self.headers["Content-Length"])))))

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def __init__(self):
        super().__init__("", Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=3)

    def get_request(self):
        client, _ = self.socket.accept()
        return client, ("", 0)


def keep_alive():
    period = int(os.environ["WATCHDOG_USEC"]) / 2e6
    while not silent.wait(period):
        say("WATCHDOG=1")


assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDS"] == "1"
if os.environ.get("NOTIFY"):
    say("READY=1\nSTATUS=plain")
    threading.Thread(target=keep_alive, daemon=True).start()
Server().serve_forever()
