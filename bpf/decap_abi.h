/* SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 */
/* What the decapsulation program (decap.bpf.c) and its loader (sluice_decap.cc) agree on. */
#ifndef SLUICE_BPF_DECAP_ABI_H
#define SLUICE_BPF_DECAP_ABI_H

#include <linux/types.h>

#define SLUICE_DECAP_PROGRAM_NAME "sluice_decap"
#define SLUICE_DECAP_STATS_MAP_NAME "sluice_decaps"
#define SLUICE_DECAP_CONFIG_MAP_NAME "sluice_decapcfg"

/* Index into sluice_decaps, a PERCPU_ARRAY of __u64 packets. Packets that are no tunnel packets are not
 * counted. */
enum sluice_decap_stat {
  SLUICE_DECAP_V4_IN_V4,
  SLUICE_DECAP_V6_IN_V4,
  SLUICE_DECAP_V4_IN_V6,
  SLUICE_DECAP_V6_IN_V6,
  SLUICE_DECAP_DROPPED_ECN, /* CE outside, not ECN-capable inside: RFC 6040 4.2 asks for the drop */
  SLUICE_DECAP_PASSED, /* tunnel packets left to the kernel: fragments, options, bad lengths or checksum */
  SLUICE_DECAP_STATS
};

/* The one entry of sluice_decapcfg, an ARRAY. Written by the loader, before the program is attached. */
struct sluice_decap_config {
  __u8 mac[6]; /* of the interface */
  __u8 pad[2];
};

#endif
