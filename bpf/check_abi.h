/* SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 */
/* What the program for checks of a VIP (check.bpf.c) and sluiced (controlplane/vip_path.cc) agree on. */
#ifndef SLUICE_BPF_CHECK_ABI_H
#define SLUICE_BPF_CHECK_ABI_H

#include <linux/types.h>

#define SLUICE_CHECK_PROGRAM_NAME "sluice_check"

/* A check's packets carry SO_MARK = the instance's prefix + the backend's id. */
#define SLUICE_CHECK_ID_BITS 17
#define SLUICE_CHECK_PREFIX_MASK (~0u << SLUICE_CHECK_ID_BITS)

enum sluice_check_tunnel { SLUICE_CHECK_L2DSR, SLUICE_CHECK_IN_IPV4, SLUICE_CHECK_IN_IPV6 };

/* How packets reach one backend: a value of sluice_checks, a HASH by mark. Addresses in network order, IPv4
 * in the last four bytes. */
struct sluice_check_path {
  __u32 ifindex; /* of the interface that they leave by */
  __u32 tunnel;  /* enum sluice_check_tunnel */
  __u8 destination_mac[6];
  __u8 source_mac[6];
  __u8 outer_source[16];
  __u8 outer_destination[16];
};

#endif
