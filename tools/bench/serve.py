"""Minimal Hub server of one file for benchmarks: `python serve.py FILE SHA256` prints its port.

Adds little overhead, so that the client is measured; the Hub server for tests is tests/hub.py.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading

COMMIT = "a" * 40
RANGE = re.compile(rb"(?im)^range: bytes=(\d+)-(\d*)")


def answer(connection: socket.socket, path: str, sha256: str) -> None:
    """Answer the requests of a connection in order; the kernel sends the file (sendfile)."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    size, asked = os.path.getsize(path), b""
    facts = f'X-Repo-Commit: {COMMIT}\r\nETag: "{sha256}"\r\nX-Linked-Etag: "{sha256}"\r\nX-Linked-Size: {size}\r\n'
    with open(path, "rb") as file, connection:
        while True:
            while b"\r\n\r\n" not in asked:
                received = connection.recv(1 << 16)
                if not received:
                    return
                asked += received
            head, _, asked = asked.partition(b"\r\n\r\n")
            found = RANGE.search(head)
            first, stop = (int(found[1]), min(size, int(found[2] or size) + 1)) if found else (0, size)
            status = f"206 Partial\r\nContent-Range: bytes {first}-{stop - 1}/{size}" if found else "200 OK"
            connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {stop - first}\r\n{facts}\r\n".encode())
            while head.startswith(b"GET") and first < stop:
                first += os.sendfile(connection.fileno(), file.fileno(), first, stop - first)


def quietly(connection: socket.socket, path: str, sha256: str) -> None:
    """Answer until the client disconnects."""
    try:
        answer(connection, path, sha256)
    except OSError:
        return


if __name__ == "__main__":
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(server.getsockname()[1], flush=True)
    while True:
        client, _ = server.accept()
        threading.Thread(target=quietly, args=(client, *sys.argv[1:]), daemon=True).start()
