#!/usr/bin/env python3
"""Usage: udp_keys.py ADDRESS PORT KEYS PAUSE_MS

From one socket per key, sends a datagram that begins with the key (two bytes: 0, 1, ...) every PAUSE_MS until SIGTERM.
Then prints a JSON list: per key the answers, each named once as long as the next one is the same.
"""

import json
import selectors
import signal
import socket
import sys
import time

address, port, keys, pause_ms = sys.argv[1], *map(int, sys.argv[2:5])
goes_on = True


def stop(*_):
    global goes_on
    goes_on = False


signal.signal(signal.SIGTERM, stop)
selector = selectors.DefaultSelector()
answers = [[] for _ in range(keys)]
sockets = []
for key in range(keys):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setblocking(False)
    client.connect((address, port))
    selector.register(client, selectors.EVENT_READ, key)
    sockets.append(client)
while goes_on:
    for key, client in enumerate(sockets):
        try:
            client.send(key.to_bytes(2, "big") + b"data")
        except ConnectionRefusedError:
            pass
    until = time.monotonic() + pause_ms / 1000
    while (left := until - time.monotonic()) > 0:
        for ready, _ in selector.select(left):
            try:
                answer = ready.fileobj.recv(65535).decode()
            except (ConnectionRefusedError, BlockingIOError):
                continue
            if answers[ready.data][-1:] != [answer]:
                answers[ready.data].append(answer)
print(json.dumps(answers))
