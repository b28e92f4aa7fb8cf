#!/usr/bin/env python3
"""Usage: udp_ask.py ADDRESS PORT SOCKETS DATAGRAMS BYTES

From each of SOCKETS sockets sends DATAGRAMS datagrams of BYTES and waits for the answer to each. Prints a JSON list: per
socket the list of answers, null for one that did not come within two seconds.
"""

import json
import socket
import sys

address, port, sockets, datagrams, size = sys.argv[1], *map(int, sys.argv[2:6])
results = []
clients = []  # all stay open: a port given twice would be one flow
for _ in range(sockets):
    client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    clients.append(client)
    client.settimeout(2)
    client.connect((address, port))
    answers = []
    for _ in range(datagrams):
        client.send(b"x" * size)
        try:
            answers.append(client.recv(65535).decode())
        except (TimeoutError, ConnectionRefusedError):
            answers.append(None)
    results.append(answers)
print(json.dumps(results))
