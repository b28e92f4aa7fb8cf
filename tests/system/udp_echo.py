#!/usr/bin/env python3
"""Usage: udp_echo.py NAME ADDRESS PORT

A UDP server on one address (a VIP on lo, so that answers come from it): answers each datagram with NAME.
"""

import socket
import sys

name, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
server.bind((address, port))
while True:
    _, client = server.recvfrom(65535)
    server.sendto(name.encode(), client)
