"""TRex, stateless: the runs of perf/pktgen for a balancer with real NICs.

It cannot be run on a machine without two NICs bound to DPDK, and has not been run by Sluice's own tests; those only check
the packets that it describes (their layout and checksums, with scapy).

Cabling: TRex port 0 to the balancer's port; the balancer sends to its backends by way of its gateway, whose MAC address
is TRex's port 1 (or port 0 again, on one port): in sluice.toml's network, every backend's route leads to that gateway.

    on TRex        ./t-rex-64 -i --cfg /etc/trex_cfg.yaml -c 4
                   ./trex-console
    64 bytes       start -f trex_stl.py -p 0 -m 20mpps -d 60 -t --size 64 --flows 1000000 --vip 198.18.0.1
    IMIX 7:4:1     start -f trex_stl.py -p 0 -m 10mpps -d 60 -t --size imix --flows 1000000
    new flows too  start -f trex_stl.py -p 0 -m 20mpps -d 60 -t --flows 1000000 --churn 0.01
    SYN flood      start -f trex_stl.py -p 0 -m 20mpps -d 60 -t --flows 1000000 --syn_flood 0.5
    latency        --latency 1 adds 1,000 packets a second with TRex's own time stamps, beside the load
    what comes back  stats -p 0 1     and, on the balancer: sluice show dataplane; sluice show backends
    zero-loss rate ./ndr --stl --port 0 1 --profile trex_stl.py --pdr 0 --iter-time 60
                   (TRex's own binary search, RFC 2544's; --pdr 0.5 for the half per cent; ./ndr --help)

-m is the rate of all streams together, and they keep their shares of it. Clients come in turn and not at random; their
hashes, which are all a flow table sees, do not. Churn and flood are streams of SYNs from clients that count on and on.
Whether a flow keeps its backend is not checked here: TRex's stateless mode does not follow flows; see
perf/pktgen, or trex_astf.py, where a moved flow breaks its TCP connection.
"""

import argparse

from trex_stl_lib.api import (IP, TCP, CTRexVmInsFixHwCs, Ether, STLFlowLatencyStats, STLPktBuilder, STLScVmRaw,
                              STLStream, STLTXCont, STLVmFixChecksumHw, STLVmTupleGen, STLVmWrFlowVar)

CHECK_SEQUENCE_BYTES = 4
IMIX = ((64, 7), (570, 4), (1518, 1))
LATENCY_PPS = 1000
FLOWS_AT, NEW_AT, FLOOD_AT = 10 << 24, 100 << 24 | 64 << 16, 100 << 24 | 96 << 16  # 10/8, and the halves of 100.64/10
NEW_CLIENTS = 1 << 21    # of each half
RELATIVE_PPS = 1_000_000  # of all streams together; -m sets the rate, the streams keep their shares of it
PORTS = 64               # of each client
PORT_FIRST = 32768


def packet(size, vip, port, first_client, flags):
    base = Ether() / IP(src=first_client, dst=vip, flags="DF") / TCP(sport=PORT_FIRST, dport=port, flags=flags, seq=1)
    return base / (b"\0" * max(0, size - CHECK_SEQUENCE_BYTES - len(base)))


def text(address):
    return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))


def clients(first, count):
    """A field engine that gives each packet the next of `count` clients: addresses from `first`, with PORTS ports each."""
    ports = min(count, PORTS)
    return STLScVmRaw([
        STLVmTupleGen(name="client", ip_min=text(first), ip_max=text(first + max(1, count // PORTS) - 1),
                      port_min=PORT_FIRST, port_max=PORT_FIRST + ports - 1, limit_flows=count),
        STLVmWrFlowVar(fv_name="client.ip", pkt_offset="IP.src"),
        STLVmWrFlowVar(fv_name="client.port", pkt_offset="TCP.sport"),
        STLVmFixChecksumHw(l3_offset="IP", l4_offset="TCP", l4_type=CTRexVmInsFixHwCs.L4_TYPE_TCP),
    ])


class Sluice:
    def get_streams(self, direction=0, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description="see the top of this file")
        parser.add_argument("--size", default="64", help="of frames, 64 to 1518, or imix")
        parser.add_argument("--flows", type=int, default=1_000_000)
        parser.add_argument("--churn", type=float, default=0.0, help="share of packets that begin a new flow")
        parser.add_argument("--syn_flood", type=float, default=0.0)
        parser.add_argument("--vip", default="198.18.0.1")
        parser.add_argument("--port", type=int, default=80)
        parser.add_argument("--latency", type=int, default=0)
        options = parser.parse_args(list(tunables))
        sizes = IMIX if options.size == "imix" else ((int(options.size), 1),)
        rest = 1.0 - options.churn - options.syn_flood
        streams = []

        def add(name, size, share, first, count, flags):
            frame = packet(size, options.vip, options.port, text(first), flags)
            streams.append(STLStream(name=name, mode=STLTXCont(pps=RELATIVE_PPS * share),
                                     packet=STLPktBuilder(pkt=frame, vm=clients(first, count))))
        for size, parts in sizes:
            add(f"flows-{size}", size, rest * parts / sum(p for _, p in sizes), FLOWS_AT, options.flows, "A")
        for name, share, first in (("new", options.churn, NEW_AT), ("flood", options.syn_flood, FLOOD_AT)):
            if share > 0:
                add(name, 64, share, first, NEW_CLIENTS * PORTS, "S")
        if options.latency:
            # TRex keeps its time stamp in the last 16 bytes.
            probe = packet(74, options.vip, options.port, "10.255.0.1", "A")
            streams.append(STLStream(name="latency", packet=STLPktBuilder(pkt=probe), mode=STLTXCont(pps=LATENCY_PPS),
                                     flow_stats=STLFlowLatencyStats(pg_id=1)))
        return streams


def register():
    return Sluice()
