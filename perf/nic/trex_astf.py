"""TRex, advanced stateful: real TCP connections through the balancer, so that a flow that changes its backend breaks.

It cannot be run on a machine without two NICs bound to DPDK, and has not been run by Sluice's own tests.

TRex is the clients on port 0 and the backends on port 1. It does not take tunnels off, so use forward = "l2dsr": the
backends are TRex's addresses 198.18.0.0/16 of its server side, and every backend's next hop is TRex's port 1. The VIP is
the one address that the server side answers for.

    on TRex       ./t-rex-64 -i --astf --cfg /etc/trex_cfg.yaml -c 4
                  ./trex-console
    1 M flows     start -f trex_astf.py -m 10000 -d 120 -t --vip 198.18.0.1 --requests 200
                  (a connection lives for `requests` answers, 500 ms apart: 100 s; 10,000 a second make a million)
    what counts   stats -a      tcps_conndrops, tcps_rexmttimeo and err_* must stay 0 while `sluice backend drain` is at work
"""

import argparse

from trex.astf.api import (ASTFAssociationRule, ASTFIPGen, ASTFIPGenDist, ASTFIPGenGlobal, ASTFProfile, ASTFProgram,
                           ASTFTCPClientTemplate, ASTFTCPServerTemplate, ASTFTemplate)

REQUEST = b"GET / HTTP/1.1\r\nHost: sluice\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok\r\n"
PAUSE_US = 500_000


class Sluice:
    def get_profile(self, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description="see the top of this file")
        parser.add_argument("--vip", default="198.18.0.1")
        parser.add_argument("--port", type=int, default=80)
        parser.add_argument("--requests", type=int, default=200)
        options = parser.parse_args(list(tunables))
        client, server = ASTFProgram(), ASTFProgram()
        client.set_var("left", options.requests)
        client.set_label("again:")
        client.send(REQUEST)
        client.recv(len(ANSWER))
        client.delay(PAUSE_US)
        client.jmp_nz("left", "again:")
        server.set_var("left", options.requests)
        server.set_label("again:")
        server.recv(len(REQUEST))
        server.send(ANSWER)
        server.jmp_nz("left", "again:")
        addresses = ASTFIPGen(
            glob=ASTFIPGenGlobal(ip_offset="0.0.0.0"),
            dist_client=ASTFIPGenDist(ip_range=["10.0.0.1", "10.0.63.254"], distribution="seq"),
            dist_server=ASTFIPGenDist(ip_range=[options.vip, options.vip], distribution="seq"))
        template = ASTFTemplate(
            client_template=ASTFTCPClientTemplate(program=client, ip_gen=addresses, port=options.port),
            server_template=ASTFTCPServerTemplate(program=server, assoc=ASTFAssociationRule(port=options.port)))
        return ASTFProfile(default_ip_gen=addresses, templates=template)


def register():
    return Sluice()
