"""A gRPC server with nothing but grpc.health.v1.Health/Check: SERVING until SIGUSR1, then NOT_SERVING.

    grpc_health_server.py PORT [KEY CERTIFICATE]     with those two: over TLS
"""

import signal
import sys
from concurrent import futures
from pathlib import Path

import grpc

status = {"now": 1}
signal.signal(signal.SIGUSR1, lambda *_: status.update(now=2))


def check(request, context):
    # HealthCheckRequest: an empty one asks for the server, field 1 for a service.
    if request not in (b"", b"\x0a\x04shop"):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return bytes((0x08, status["now"]))  # HealthCheckResponse.status


server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
    "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}),))
if len(sys.argv) > 2:
    key, certificate = (Path(path).read_bytes() for path in sys.argv[2:4])
    server.add_secure_port(f"[::]:{sys.argv[1]}", grpc.ssl_server_credentials([(key, certificate)]))
else:
    server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
server.wait_for_termination()
