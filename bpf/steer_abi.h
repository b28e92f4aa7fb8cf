/* SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 */
/*
 * What the steering program (steer.bpf.c) and user space agree on. Plain C: included by the BPF program, by
 * sluiced (which writes `sluice_vips`) and by the tests.
 *
 * Maps, by name:
 *   xsks_map            XSKMAP, queue -> AF_XDP socket. Written by DPDK's net_af_xdp (it looks for this very
 * name). sluice_vips         HASH, struct sluice_vip_key -> __u32 (any value; sluiced writes 1). Pinned by
 * name under /sys/fs/bpf of the process that loads the program: it outlives the data plane, sluiced keeps it
 * equal to the configuration at any time. sluice_steer_stats  PERCPU_ARRAY of __u64, by enum
 * sluice_steer_stat. Pinned as above.
 *
 * Keys that sluiced writes, for every service:
 *   {vip, port, protocol}   packets of the service; port 0: any port of that protocol
 *   {vip, 0, 0}             once per address: this is a VIP. Decides on packets whose ports cannot be known,
 * or whose extension headers the data plane must count: they are the data plane's, too.
 */
#ifndef SLUICE_BPF_STEER_ABI_H
#define SLUICE_BPF_STEER_ABI_H

#include <linux/types.h>

#define SLUICE_XSKS_MAP_NAME "xsks_map"
#define SLUICE_VIPS_MAP_NAME "sluice_vips"
#define SLUICE_STEER_STATS_MAP_NAME "sluice_steer_stats"
#define SLUICE_STEER_PROGRAM_NAME "sluice_steer"

/* Receive queues of one NIC that may carry a socket: as many as the data plane may have workers. */
#define SLUICE_XSKS_MAX 64

/* Kept in step with limits::kServicesMax (16,384): each service needs up to two keys. A map that is pinned
 * with other attributes cannot be reused, so changing this is an ABI change. */
#define SLUICE_VIPS_MAX 65536

struct sluice_vip_key {
  __u8 vip[16];  /* network order; IPv4 as ::ffff:a.b.c.d */
  __u16 port;    /* network order; 0: any */
  __u8 protocol; /* IPPROTO_TCP, IPPROTO_UDP; 0: see above */
  __u8 pad;      /* 0: all bytes of a key count */
};

enum sluice_steer_stat {
  SLUICE_STEER_REDIRECTED,        /* handed to the data plane's socket */
  SLUICE_STEER_PASSED,            /* left to the kernel */
  SLUICE_STEER_DROPPED_NO_SOCKET, /* the data plane's, but it has no socket on this queue: it does not run */
  SLUICE_STEER_STATS
};

#endif
