"""A WSGI app: JSON about itself and the request."""

import json
import os


def app(environ, start_response):
    body = environ["wsgi.input"].read()
    headers = {name: value for name, value in environ.items() if isinstance(value, str)}
    text = json.dumps({"pid": os.getpid(), "path": environ["PATH_INFO"], "length": len(body), "headers": headers})
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text.encode()]
