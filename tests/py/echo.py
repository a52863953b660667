"""A TCP server on the socket that it is given as descriptor 3. It speaks first: its process, then an echo."""

import asyncio
import os
import socket


async def serve(reader, writer):
    writer.write(f"{os.getpid()}\n".encode())
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_unix_server(serve, sock=socket.socket(fileno=3))
    await server.serve_forever()


asyncio.run(main())
