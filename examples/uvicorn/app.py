"""An ASGI app that knows nothing of cohortd."""

import os


async def app(scope, receive, send):
    assert scope["type"] == "http"
    text = f"hello from process {os.getpid()}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})
