"""The network that the demo and the system tests run on.

        c1                c2                    clients, MTU 1500
   198.51.100.2     198.51.100.130
         \\              /
          \\            /
           +-- net ---+                         router (kernel) and switch (bridge br0), 10.0.1.1
              | br0: 10.0.1.0/24, 2001:db8:1::/64
     +--------+--------+--------+
     |        |        |        |
     lb       b1       b2       b3              one NIC each, eth0
    .10      .11      .12      .13

The router sends the VIPs (203.0.113.0/24, 2001:db8:100::/64) to the balancer; backends have them on `lo` and answer the
client straight through the router (direct server return).

MTU: the fabric's links carry 1540 bytes, so a client's 1500-byte packet fits with a tunnel header (20 bytes over IPv4,
40 over IPv6): what an operator does. With `fabric_mtu=1500` the balancer has to ask clients for smaller packets.
"""

import os
from pathlib import Path

from lab import Lab, LabError, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
BACKENDS = ("b1", "b2", "b3")
CLIENTS = {"c1": ("198.51.100.2", "198.51.100.1", "2001:db8:c1::2", "2001:db8:c1::1"),
           "c2": ("198.51.100.130", "198.51.100.129", "2001:db8:c2::2", "2001:db8:c2::1")}
VIPS4 = ("203.0.113.10", "203.0.113.20", "203.0.113.30", "203.0.113.40")
VIPS6 = ("2001:db8:100::10", "2001:db8:100::20")
LB4, LB6 = "10.0.1.10", "2001:db8:1::10"

NGINX_CONF = """\
# One process: what is killed is all of it.
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
  # connection: a number per connection; request: its n-th; started: when the connection was accepted (seconds).
  log_format sluice '$msec $connection $connection_requests $connection_time $remote_addr $remote_port '
                    '$server_addr $server_port $status $uri';
  access_log {folder}/access.log sluice;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  client_max_body_size 0;
  sendfile on;
  add_header X-Backend {name} always;
  server {{
    listen 80 backlog=4096;
    listen [::]:80 backlog=4096;
    root {www};
    location = / {{ return 200 "{name}\\n"; }}
    location = /health {{ return 200 "ok\\n"; }}
    location = /upload {{ client_body_buffer_size 1m; proxy_pass http://127.0.0.1:81; }}
    location / {{ }}
  }}
  # Reads a request's body to its end before it answers, as an application does.
  server {{ listen 127.0.0.1:81; access_log off; location / {{ return 200 "{name} $http_content_length\\n"; }} }}
}}
"""


def build_folder():
    return Path(os.environ.get("SLUICE_BUILD", REPOSITORY / "build")).resolve()


def program(path):
    found = build_folder() / path
    if not found.exists():
        raise LabError(f"{found} is not built\n  try: ninja -C {build_folder()}")
    return found


class Fabric(Lab):
    """The hosts, cables and addresses, and nginx on the backends. No balancer yet: sluice.py starts it."""

    def __init__(self, name, folder=None, fabric_mtu=1540):
        super().__init__(name, folder)
        self.fabric_mtu = fabric_mtu
        self.nginx = {}
        self._addresses_given = 0
        # Core 1 is the worker's, which polls and never sleeps; everything else keeps to core 0.
        if os.cpu_count() > 1:
            os.sched_setaffinity(0, {0})
        for host in ("net", *CLIENTS, "lb", *BACKENDS):
            # A link-local address that waits a second for objections can ask for nobody's MAC meanwhile.
            self.add_host(host).sysctl(net__ipv6__conf__all__accept_dad=0, net__ipv6__conf__default__accept_dad=0)
        self._make_switch()
        for client in CLIENTS:
            self._connect_client(client)
        self._connect_to_switch("lb", 10)
        self._prepare_balancer_link()
        for number, backend in enumerate(BACKENDS, start=11):
            self._connect_to_switch(backend, number)
            self._add_vips(backend)

    def _make_switch(self):
        net = self.hosts["net"]
        net.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1, net__ipv4__conf__all__rp_filter=0,
                   net__ipv4__conf__default__rp_filter=0)
        net.ip("link add br0 type bridge mcast_snooping 0", f"link set br0 mtu {self.fabric_mtu} up",
               "addr add 10.0.1.1/24 dev br0", "addr add 2001:db8:1::1/64 dev br0 nodad",
               f"route add 203.0.113.0/24 via {LB4}", f"route add 2001:db8:100::/64 via {LB6}")

    def _connect_client(self, client):
        net, host = self.hosts["net"], self.hosts[client]
        ip4, gateway4, ip6, gateway6 = CLIENTS[client]
        self.link(net, client, host, "eth0")
        net.ip(f"addr add {gateway4}/25 dev {client}", f"addr add {gateway6}/64 dev {client} nodad",
               f"link set {client} up")
        host.ip(f"addr add {ip4}/25 dev eth0", f"addr add {ip6}/64 dev eth0 nodad", "link set eth0 up",
                f"route add default via {gateway4}", f"route add default via {gateway6}")
        # Thousands of short connections to one address and port in a few seconds: more ports.
        host.sysctl(net__ipv4__ip_local_port_range="10000 65000")

    def fresh_address(self, client):
        """One more IPv4 address of a client, with no history: see traffic.curl_many."""
        self._addresses_given += 1
        first = CLIENTS[client][0].rsplit(".", 1)
        address = f"{first[0]}.{int(first[1]) + self._addresses_given}"
        self.hosts[client].ip(f"addr add {address}/25 dev eth0")
        return address

    def _connect_to_switch(self, name, number):
        net, host = self.hosts["net"], self.hosts[name]
        self.link(net, name, host, "eth0")
        net.ip(f"link set {name} mtu {self.fabric_mtu} master br0", f"link set {name} up")
        # By name: before eth0 is up no packet has been answered with an address that is not its own.
        host.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__default__rp_filter=0,
                    net__ipv4__conf__eth0__rp_filter=0)
        host.ip(f"link set eth0 mtu {self.fabric_mtu}", f"addr add 10.0.1.{number}/24 dev eth0",
                f"addr add 2001:db8:1::{number}/64 dev eth0 nodad", "link set eth0 up",
                "route add default via 10.0.1.1", "route add default via 2001:db8:1::1")

    def _prepare_balancer_link(self):
        # A veth hands packets over with the checksum still to be filled in, and several segments glued together: a
        # promise that a real NIC keeps before the wire. AF_XDP sees the packet as it is, so here the switch's end of the
        # balancer's cable has to do that NIC's work.
        self.hosts["net"].run("ethtool", "-K", "lb", "tx", "off", "tso", "off", "gso", "off", "gro", "off")

    def _add_vips(self, name):
        host = self.hosts[name]
        # The VIP is on lo, and nobody may learn from us who has it: answer ARP for an address of the very interface
        # only, and announce none but that.
        host.sysctl(net__ipv4__conf__all__arp_ignore=1, net__ipv4__conf__all__arp_announce=2,
                    net__core__somaxconn=4096, net__ipv4__tcp_max_syn_backlog=4096)
        host.ip(*(f"addr add {vip}/32 dev lo" for vip in VIPS4), *(f"addr add {vip}/128 dev lo nodad" for vip in VIPS6))

    # ---- Backends ----------------------------------------------------------------------------------------------------

    def attach_decap(self, name):
        return self.hosts[name].run(program("bpf/sluice-decap"), "attach", "eth0").stdout.strip()

    def start_nginx(self, name):
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        www = self.folder / "www"
        www.mkdir(exist_ok=True)
        (folder / "nginx.conf").write_text(NGINX_CONF.format(name=name, folder=folder, www=www))
        process = self.hosts[name].start("nginx", ["nginx", "-c", folder / "nginx.conf", "-p", folder])
        self.nginx[name] = process
        self.wait_listening(name, 80, process)
        return process

    def wait_listening(self, name, port, process=None):
        def is_listening():
            if process is not None:
                process.expect_running()
            return self.hosts[name].run("ss", "-Hltn", f"sport = :{port}").stdout.strip()
        wait_until(is_listening, f"somebody listens on port {port} of {name}")

    def make_file(self, name, size_bytes):
        """A file that every nginx serves as /NAME, its content never repeating; returns its path."""
        path = self.folder / "www" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(size_bytes))
        return path

    def access_log(self, name):
        """nginx's log of one backend: a list of Request, oldest first; health checks (not to a VIP) are left out."""
        path = self.folder / name / "access.log"
        requests = [Request(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [request for request in requests if request.server in VIPS4 + VIPS6]


class Request:
    """One line of nginx's access log."""

    def __init__(self, line):
        fields = line.split()
        self.ended_s = float(fields[0])
        self.connection = int(fields[1])
        self.number = int(fields[2])  # on its connection, from 1
        self.connected_s = self.ended_s - float(fields[3])
        self.client, self.client_port = fields[4], int(fields[5])
        self.server, self.server_port = fields[6], int(fields[7])
        self.status, self.uri = int(fields[8]), fields[9]
