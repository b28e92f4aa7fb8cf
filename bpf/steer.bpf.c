// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Steering: an XDP program on the balancer's NIC. Traffic of a configured service goes to the data plane's
 * AF_XDP socket of the same queue; everything else stays with the kernel, so SSH, ARP, neighbour discovery,
 * BGP and health checks work on the same NIC.
 *
 * Decision, in order:
 *   to a group or broadcast MAC, VLAN-tagged, not IP, cut short       kernel
 *   IPv4 fragment of TCP or UDP, or IPv6 extension header, to a VIP   data plane (it counts and drops them)
 *   TCP or UDP to {VIP, port} or {VIP, any port}; IPv4 options or not data plane
 *   anything else (ICMP to a VIP and ports without a service included) kernel
 *
 * When the data plane does not run, its traffic is dropped, and counted, instead of being passed: the kernel
 * would answer a client's packet with RST or ICMP unreachable, and so end connections that go on as soon as
 * the data plane is back. Clients retransmit; a restart of a second looks like a lost packet. A balancer that
 * is to stay down must withdraw its VIP routes (its neighbours then send nothing here); taking the program
 * off the NIC (`ip link set dev IFACE xdp off`, or an orderly end of the data plane) gives the traffic back to the kernel.
 *
 * Loaded by DPDK's net_af_xdp (`xdp_prog=`), which takes the first program of the object and the map
 * `xsks_map`. Written once for all kernels from 5.10 on: uapi headers only.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steer_abi.h"

struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, SLUICE_XSKS_MAX);
  __type(key, __u32);
  __type(value, __u32);
} xsks_map SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, SLUICE_VIPS_MAX);
  /* A machine with three VIPs does not pay for 65,536. */
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, struct sluice_vip_key);
  __type(value, __u32);
  __uint(pinning, LIBBPF_PIN_BY_NAME);
} sluice_vips SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, SLUICE_STEER_STATS);
  __type(key, __u32);
  __type(value, __u64);
  __uint(pinning, LIBBPF_PIN_BY_NAME);
} sluice_steer_stats SEC(".maps");

#define IPV4_MF_OR_OFFSET 0x3fff /* more fragments, or an offset: RFC 791 3.1 */

enum verdict { TO_KERNEL, TO_DATA_PLANE };

static __always_inline void count(enum sluice_steer_stat stat) {
  __u32 index = stat;
  __u64* counter = bpf_map_lookup_elem(&sluice_steer_stats, &index);
  if (counter) (*counter)++;
}

/* With nothing but the address in it, the key asks: is this a VIP? */
static __always_inline enum verdict by_key(const struct sluice_vip_key* key) {
  return bpf_map_lookup_elem(&sluice_vips, key) ? TO_DATA_PLANE : TO_KERNEL;
}

/* `l4` points at a TCP or UDP header; both have the destination port at offset 2. */
static __always_inline enum verdict by_service(struct sluice_vip_key* key, __u8 protocol, const void* l4,
                                               const void* end) {
  const __be16* ports = l4;
  if ((const void*)(ports + 2) > end) return TO_KERNEL;
  key->protocol = protocol;
  key->port = ports[1];
  if (by_key(key) == TO_DATA_PLANE) return TO_DATA_PLANE;
  key->port = 0;
  return by_key(key);
}

static __always_inline enum verdict steer_ipv4(const struct iphdr* ip, const void* end) {
  if ((const void*)(ip + 1) > end || ip->version != 4 || ip->ihl < 5) return TO_KERNEL;
  struct sluice_vip_key key = {.vip = {[10] = 0xff, [11] = 0xff}};
  __builtin_memcpy(&key.vip[12], &ip->daddr, 4);
  if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP) return TO_KERNEL;
  if (ip->frag_off & bpf_htons(IPV4_MF_OR_OFFSET)) return by_key(&key);
  return by_service(&key, ip->protocol, (const void*)ip + ip->ihl * 4, end);
}

static __always_inline enum verdict steer_ipv6(const struct ipv6hdr* ip, const void* end) {
  if ((const void*)(ip + 1) > end || ip->version != 6) return TO_KERNEL;
  struct sluice_vip_key key = {};
  __builtin_memcpy(key.vip, &ip->daddr, 16);
  switch (ip->nexthdr) {
    case IPPROTO_TCP:
    case IPPROTO_UDP:
      return by_service(&key, ip->nexthdr, ip + 1, end);
    case IPPROTO_HOPOPTS:
    case IPPROTO_ROUTING:
    case IPPROTO_FRAGMENT:
    case IPPROTO_DSTOPTS:
      return by_key(&key);
    default:
      return TO_KERNEL;
  }
}

static __always_inline enum verdict steer(const struct ethhdr* ethernet, const void* end) {
  if ((const void*)(ethernet + 1) > end || (ethernet->h_dest[0] & 1)) return TO_KERNEL;
  if (ethernet->h_proto == bpf_htons(ETH_P_IP)) return steer_ipv4((const void*)(ethernet + 1), end);
  if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) return steer_ipv6((const void*)(ethernet + 1), end);
  return TO_KERNEL;
}

SEC("xdp")
int sluice_steer(struct xdp_md* ctx) {
  if (steer((const void*)(long)ctx->data, (const void*)(long)ctx->data_end) == TO_KERNEL) {
    count(SLUICE_STEER_PASSED);
    return XDP_PASS;
  }
  /* The flags name the verdict for a queue without a socket. */
  const long action = bpf_redirect_map(&xsks_map, ctx->rx_queue_index, XDP_DROP);
  count(action == XDP_REDIRECT ? SLUICE_STEER_REDIRECTED : SLUICE_STEER_DROPPED_NO_SOCKET);
  return action;
}

char _license[] SEC("license") = "GPL";
