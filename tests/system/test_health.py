"""Health checks of every kind against the servers that people run, and checks that go the way of the clients' packets."""

import signal
import sys
from pathlib import Path

from fabric import BACKENDS, LB4, LB6, VIPS4, VIPS6, program
from lab import run, wait_until
from sluice import on_fabric, service

HERE = Path(__file__).resolve().parent
WEB, DIRECT, PLAIN = VIPS4[:3]
WEB6 = VIPS6[0]
CONFIG = ""  # each test's own
TIMES = 'interval = "200ms", timeout = "150ms", rise = 1, fall = 2'
ON_VIP = f'{{ type = "http", path = "/health", to = "vip", {TIMES} }}'
ON_BACKEND = f'{{ type = "http", path = "/health", {TIMES} }}'


def one(name):
    return {name: on_fabric()[name]}


def check_of(balancer, service_name, backend):
    return balancer.backend(service_name, backend)["check"]


def wait_result(balancer, service_name, backend, *results):
    """Until the last check of a backend ended with one of these codes."""
    wait_until(lambda: check_of(balancer, service_name, backend)["result"] in results,
               lambda: f"{service_name}/{backend} {results}: {check_of(balancer, service_name, backend)}\n"
                       f"{balancer.sluiced.output()[-800:]}", timeout_s=20)


def start_sluiced(balancer, config):
    balancer.write_config(config)
    balancer.start_sluiced()
    balancer.wait_answering()


# ---- Servers that people run ---------------------------------------------------------------------------------------------

def start_https(fabric, name):
    folder = fabric.folder / f"{name}-https"
    folder.mkdir()
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=web.example", "-addext", "subjectAltName=DNS:web.example", "-keyout", folder / "key.pem",
         "-out", folder / "cert.pem"])
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log warn;\n"
        f"events {{}}\nhttp {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f"fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n"
        f"server {{ listen 443 ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;\n"
        'location / { return 200 "status: ready\\n"; } } }\n')
    process = fabric.hosts[name].start("https", ["nginx", "-c", folder / "nginx.conf", "-p", folder])
    fabric.wait_listening(name, 443, process)
    return process, folder / "cert.pem"


def test_every_kind_against_a_real_server(idle_balancer):
    fabric = idle_balancer.fabric
    fabric.hosts["b1"].sysctl(net__ipv4__icmp_ratelimit=0)  # two UDP services share what it says of closed ports
    https, certificate = start_https(fabric, "b1")
    dns = fabric.hosts["b1"].start("dns", ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
                                           "--no-hosts", "--port=5353", "--pid-file=", "--user=root",
                                           "--address=/www.example/192.0.2.7"])
    grpc = fabric.hosts["b1"].start("grpc", ["/usr/bin/python3", HERE / "grpc_health_server.py", 50051])
    grpc_tls = fabric.hosts["b1"].start("grpc-tls", ["/usr/bin/python3", HERE / "grpc_health_server.py", 50052,
                                                     certificate.parent / "key.pem", certificate])
    fabric.wait_listening("b1", 50051, grpc)
    fabric.wait_listening("b1", 50052, grpc_tls)
    udp = fabric.hosts["b1"].start("udp", [sys.executable, HERE / "udp_echo.py", "b1", "10.0.1.11", 4000])
    tls = f'host = "web.example", ca_file = "{certificate}"'
    kinds = {
        "tcp": ('type = "tcp", port = 80', "L4OK"),
        "http": ('type = "http", port = 80, method = "HEAD", path = "/health", status = "200-299,301"', "L7OK"),
        "tls": (f'type = "tls", port = 443, {tls}', "L6OK"),
        "https": (f'type = "https", port = 443, body = "^status: (ready|up)", {tls}', "L7OK"),
        "stranger": ('type = "https", port = 443, host = "web.example"', "L6RSP"),
        "dns": ('type = "dns", port = 5353, query = "www.example", record = "A"', "L7OK"),
        "nodns": ('type = "dns", port = 5353, query = "www.example", rcode = "NXDOMAIN"', "L7STS"),
        "grpc": ('type = "grpc", port = 50051, service = "shop"', "L7OK"),
        "nogrpc": ('type = "grpc", port = 50051, service = "bank"', "L7STS"),
        "grpctls": (f'type = "grpc", port = 50052, service = "shop", tls = true, {tls}', "L7OK"),
        "strangegrpc": ('type = "grpc", port = 50052, tls = true, host = "web.example"', "L6RSP"),
        "plaingrpc": ('type = "grpc", port = 50052', "L7RSP"),  # without TLS, where TLS is spoken
        "udp": ('type = "udp", port = 4000, send = "x", expect = "b1"', "L7OK"),
        "noudp": ('type = "udp", port = 4001, send_hex = "00ff"', "L4CON"),
        "icmp": ('type = "icmp"', "L4OK"),
        "command": ('type = "command", command = ["/bin/sh", "-c", "curl -s http://$SLUICE_ADDRESS/health"]', "PROCOK"),
    }
    times = 'interval = "500ms", timeout = "400ms", rise = 1, fall = 1'
    start_sluiced(idle_balancer, "".join(
        service(name, f"203.0.113.{100 + i}", "ipip", one("b1"), port=80, health=f"{{ {keys}, {times} }}")
        for i, (name, (keys, _)) in enumerate(kinds.items())))
    for name, (_, result) in kinds.items():
        wait_result(idle_balancer, name, "b1", result)
    shown = {name: check_of(idle_balancer, name, "b1") for name in kinds}
    assert shown["dns"]["detail"] == "NOERROR, 1 answers"
    assert shown["stranger"]["detail"].startswith("certificate: ")
    assert shown["nogrpc"]["detail"] == "gRPC status 5: unknown service"
    assert shown["command"]["detail"] == "ok"
    assert idle_balancer.backend("https", "b1")["health"] == "up"
    assert idle_balancer.backend("stranger", "b1")["health"] == "down"
    assert shown["grpctls"]["detail"] == "SERVING"
    # And down again, each in its own way.
    for process, name in ((grpc, "grpc"), (grpc_tls, "grpctls")):
        process.signal(signal.SIGUSR1)
        wait_result(idle_balancer, name, "b1", "L7STS")
    for process in (https, dns, udp):
        process.kill()
    for name in ("tls", "https", "dns", "udp"):
        wait_result(idle_balancer, name, "b1", "L4CON")
    assert check_of(idle_balancer, "https", "b1")["last_bad"]["result"] == "L4CON"
    fabric.hosts["b1"].ip("link set eth0 down")
    wait_result(idle_balancer, "icmp", "b1", "L4TOUT", "L4CON")


# ---- The way of the clients' packets -------------------------------------------------------------------------------------

def filters(balancer, interface="eth0"):
    """How often the program for checks of VIPs is on the interface."""
    lines = balancer.host.run("tc", "filter", "show", "dev", interface, "egress", check=False).stdout.splitlines()
    return sum(" handle " in line and "sluice_check" in line for line in lines)


def checked_at(fabric, name):
    """Addresses of its own at which this backend's server was asked for its health by the balancer."""
    return {request.server for request in fabric.access_log(name) if request.client in (LB4, LB6)}


def states(balancer, backend):
    return {name: balancer.backend(name, backend)["health"] for name in ("web", "web6", "cross", "direct", "plain")}


def wait_states(balancer, backend, **wanted):
    wait_until(lambda: wanted.items() <= states(balancer, backend).items(),
               lambda: f"{backend}: {states(balancer, backend)}\n{balancer.cli('show', 'backends').stdout}", timeout_s=20)


def test_a_check_of_the_vip_sees_what_a_check_of_the_backend_does_not(idle_balancer):
    fabric = idle_balancer.fabric
    start_sluiced(idle_balancer, "".join((
        service("web", WEB, "ipip", on_fabric(), health=ON_VIP),
        service("web6", WEB6, "ipip", on_fabric(ipv6=True), health=ON_VIP),
        service("cross", VIPS4[3], "ipip", on_fabric(ipv6=True), health=ON_VIP),
        service("direct", DIRECT, "l2dsr", on_fabric(), health=ON_VIP),
        service("plain", PLAIN, "ipip", on_fabric(), health=ON_BACKEND))))
    for name in BACKENDS:
        wait_states(idle_balancer, name, web="up", web6="up", cross="up", direct="up", plain="up")
    # Each backend was asked itself, at the VIP; nothing else could have answered in its place.
    for name in BACKENDS:
        wait_until(lambda: {WEB, DIRECT, WEB6, VIPS4[3]} <= checked_at(fabric, name), lambda: f"{checked_at(fabric, name)}")

    # No tunnel's end on b1: clients of ipip services get nothing, and only a check of the VIP knows.
    fabric.hosts["b1"].run(program("bpf/sluice-decap"), "detach", "eth0")
    wait_states(idle_balancer, "b1", web="down", web6="down", cross="down", direct="up", plain="up")
    fabric.attach_decap("b1")
    wait_states(idle_balancer, "b1", web="up", web6="up", cross="up")

    # No VIP on b2.
    fabric.hosts["b2"].ip(f"addr del {DIRECT}/32 dev lo", f"addr del {WEB}/32 dev lo")
    wait_states(idle_balancer, "b2", web="down", direct="down", plain="up", web6="up")
    fabric.hosts["b2"].ip(f"addr add {DIRECT}/32 dev lo", f"addr add {WEB}/32 dev lo")
    wait_states(idle_balancer, "b2", web="up", direct="up")
    assert states(idle_balancer, "b3") == dict.fromkeys(("web", "web6", "cross", "direct", "plain"), "up")

    # A killed sluiced leaves the program; its successor puts its own in that place, once.
    assert filters(idle_balancer) == 1
    idle_balancer.sluiced.kill()
    assert filters(idle_balancer) == 1
    idle_balancer.start_sluiced()
    idle_balancer.wait_answering()
    for name in BACKENDS:
        wait_until(lambda: check_of(idle_balancer, "web", name)["result"] == "L7OK", f"{name} is checked again")
        wait_states(idle_balancer, name, web="up", direct="up")
    assert filters(idle_balancer) == 1
    # Without such a check nothing stays behind, and neither does it after an orderly end.
    config = idle_balancer.config_path.read_text()
    idle_balancer.write_config(config.replace('to = "vip", ', ""))
    idle_balancer.cli("reload")
    wait_until(lambda: filters(idle_balancer) == 0, "the program is taken off")
    idle_balancer.write_config(config)
    idle_balancer.cli("reload")
    wait_until(lambda: filters(idle_balancer) == 1, "the program is on again")
    wait_states(idle_balancer, "b1", web="up", direct="up")
    idle_balancer.sluiced.stop()
    assert filters(idle_balancer) == 0


def test_a_vip_without_a_route_is_named_and_followed(idle_balancer):
    """Checks that cannot be made say why and change nothing; a route that comes makes them possible."""
    host = idle_balancer.host
    host.ip("route del default via 10.0.1.1")
    start_sluiced(idle_balancer, service("web", WEB, "ipip", on_fabric(), health=ON_VIP))
    wait_until(lambda: "no route to the VIP" in check_of(idle_balancer, "web", "b1").get("impossible", ""),
               lambda: str(check_of(idle_balancer, "web", "b1")))
    assert idle_balancer.backend("web", "b1")["health"] == "unknown"
    wait_until(lambda: 'checks to = "vip" are impossible' in idle_balancer.sluiced.output(), "an event says so")
    host.ip("route add default via 10.0.1.1")
    for name in BACKENDS:
        wait_result(idle_balancer, "web", name, "L7OK")
    assert 'checks to = "vip" work' in idle_balancer.sluiced.output()
