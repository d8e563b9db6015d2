"""Counts common people with openmined-psi, one process a party over a socket; prints one JSON object.

Usage: python openmined_peer.py COUNT. The server sends its set as a Golomb-compressed one with a false positive rate of
1e-9. The clock starts when both have their lists in memory.
"""

import json
import multiprocessing
import socket
import struct
import sys
import time
from pathlib import Path

import private_set_intersection.python as psi

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from overlap_people import email_of, people_of


def send(link: socket.socket, data: bytes) -> None:
    link.sendall(struct.pack(">Q", len(data)) + data)


def receive(link: socket.socket) -> bytes:
    (size,) = struct.unpack(">Q", exactly(link, 8))
    return exactly(link, size)


def exactly(link: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = link.recv(min(1 << 20, size - len(data)))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def serve(listener: socket.socket, count: int) -> None:
    items = [email_of(person) for person in people_of(0, count)]
    link, _ = listener.accept()
    receive(link)
    server = psi.server.CreateWithNewKey(False)
    setup = server.CreateSetupMessage(1e-9, count, items, psi.DataStructure.GCS)
    send(link, setup.SerializeToString())
    request = psi.Request()
    request.ParseFromString(receive(link))
    send(link, server.ProcessRequest(request).SerializeToString())
    receive(link)


def main() -> None:
    count = int(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(target=serve, args=(listener, count))
    process.start()
    items = [email_of(person) for person in people_of(1, count)]
    link = socket.create_connection(listener.getsockname())
    started = time.perf_counter()
    send(link, b"begin")
    client = psi.client.CreateWithNewKey(False)
    request = client.CreateRequest(items).SerializeToString()
    setup, response = psi.ServerSetup(), psi.Response()
    setup.ParseFromString(receive(link))
    send(link, request)
    response.ParseFromString(receive(link))
    found = client.GetIntersectionSize(setup, response)
    wall_s = time.perf_counter() - started
    send(link, b"end")
    process.join()
    print(json.dumps({"wall_s": wall_s, "found": found}))


if __name__ == "__main__":
    main()
