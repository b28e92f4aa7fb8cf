#!/usr/bin/env python3
"""Usage: keepalive_client.py VIP PORT CONNECTIONS PAUSE_MS [SOURCE...]

Opens CONNECTIONS, from each SOURCE in turn if there are any, sends requests on each until SIGTERM, then prints one JSON line: per connection the number of answers,
the backends that gave them (header X-Backend), and the first error. A connection that fails is not opened again.
"""

import asyncio
import json
import signal
import sys


async def ask(reader, writer, vip):
    writer.write(f"GET / HTTP/1.1\r\nHost: {vip}\r\n\r\n".encode())
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    await reader.readexactly(int(headers["Content-Length"]))
    if " 200 " not in head.split("\r\n")[0]:
        raise ValueError(head.split("\r\n")[0])
    return headers["X-Backend"]


async def connection(vip, port, pause_s, stop, source):
    result = {"requests": 0, "backends": [], "error": None}
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(vip, port, local_addr=source and (source, 0)), 10)
        while not stop.is_set():
            backend = await asyncio.wait_for(ask(reader, writer, vip), 10)
            result["requests"] += 1
            if backend not in result["backends"]:
                result["backends"].append(backend)
            await asyncio.sleep(pause_s)
        writer.close()
    except Exception as error:  # whatever it is, it is the finding
        result["error"] = f"{type(error).__name__}: {error}"
    return result


async def main(vip, port, connections, pause_ms, sources):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    results = await asyncio.gather(*(
        connection(vip, port, pause_ms / 1000, stop, sources[i % len(sources)] if sources else None)
        for i in range(connections)))
    print(json.dumps({"connections": results}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5:]))
