// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Checks that ask the VIP: a TC program on the way out of the balancer's kernel. sluiced connects to the VIP
 * from a socket with a mark, and this gives the packets the way that the data plane gives clients' packets:
 * an outer header to the backend (IPIP), or its MAC address (L2 DSR). What answers is the backend with the
 * VIP, directly to this host.
 *
 * Packets without a mark of this instance are not touched. Those with one whose way is not known are dropped:
 * a router would bring them back to the data plane, which would give them to any backend.
 *
 * Loaded and attached (clsact, egress) by sluiced. uapi headers only; kernels from 5.10 on.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "check_abi.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1 << SLUICE_CHECK_ID_BITS);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, __u32);
  __type(value, struct sluice_check_path);
} sluice_checks SEC(".maps");

const volatile __u32 sluice_check_prefix = 0; /* set before it is loaded */

#define HOPS 64
#define IPV4_DONT_FRAGMENT 0x4000

static __always_inline __u16 ipv4_checksum(const struct iphdr* ip) {
  const __u16* words = (const __u16*)ip;
  __u32 sum = 0;
#pragma unroll
  for (int i = 0; i < 10; i++)
    sum += words[i];
  sum = (sum & 0xffff) + (sum >> 16);
  return ~((sum & 0xffff) + (sum >> 16));
}

static __always_inline int wrap_in_ipv4(struct __sk_buff* skb, const struct sluice_check_path* path,
                                        __u8 protocol) {
  struct iphdr outer = {
      .version = 4,
      .ihl = 5,
      .tot_len = bpf_htons((__u16)(skb->len - ETH_HLEN + sizeof outer)),
      .frag_off = bpf_htons(IPV4_DONT_FRAGMENT),
      .ttl = HOPS,
      .protocol = protocol,
  };
  __builtin_memcpy(&outer.saddr, &path->outer_source[12], 4);
  __builtin_memcpy(&outer.daddr, &path->outer_destination[12], 4);
  outer.check = ipv4_checksum(&outer);
  if (bpf_skb_adjust_room(skb, sizeof outer, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) != 0) return -1;
  const __be16 ether_type = bpf_htons(ETH_P_IP);
  if (bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof outer, BPF_F_INVALIDATE_HASH) != 0) return -1;
  return (int)bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &ether_type, sizeof ether_type, 0);
}

static __always_inline int wrap_in_ipv6(struct __sk_buff* skb, const struct sluice_check_path* path,
                                        __u8 protocol) {
  struct ipv6hdr outer = {
      .version = 6,
      .payload_len = bpf_htons((__u16)(skb->len - ETH_HLEN)),
      .nexthdr = protocol,
      .hop_limit = HOPS,
  };
  __builtin_memcpy(&outer.saddr, path->outer_source, 16);
  __builtin_memcpy(&outer.daddr, path->outer_destination, 16);
  if (bpf_skb_adjust_room(skb, sizeof outer, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6) != 0) return -1;
  const __be16 ether_type = bpf_htons(ETH_P_IPV6);
  if (bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof outer, BPF_F_INVALIDATE_HASH) != 0) return -1;
  return (int)bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &ether_type, sizeof ether_type, 0);
}

static __always_inline int give_way(struct __sk_buff* skb, const struct sluice_check_path* path) {
  const __u8 protocol = skb->protocol == bpf_htons(ETH_P_IP) ? IPPROTO_IPIP : IPPROTO_IPV6;
  int failed = 0;
  if (path->tunnel == SLUICE_CHECK_IN_IPV4) failed = wrap_in_ipv4(skb, path, protocol);
  if (path->tunnel == SLUICE_CHECK_IN_IPV6) failed = wrap_in_ipv6(skb, path, protocol);
  if (failed) return failed;
  if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), path->destination_mac, ETH_ALEN, 0) != 0)
    return -1;
  return (int)bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_source), path->source_mac, ETH_ALEN, 0);
}

SEC("tc")
int sluice_check(struct __sk_buff* skb) {
  __u32 mark = skb->mark;
  if ((mark & SLUICE_CHECK_PREFIX_MASK) != sluice_check_prefix) return TC_ACT_UNSPEC;
  const struct sluice_check_path* path = bpf_map_lookup_elem(&sluice_checks, &mark);
  if (!path) return TC_ACT_SHOT;
  if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6)) return TC_ACT_UNSPEC;
  if (give_way(skb, path) != 0) return TC_ACT_SHOT;
  /* It may pass here again, on the way out of another interface. */
  skb->mark = 0;
  return path->ifindex == skb->ifindex ? TC_ACT_OK : (int)bpf_redirect(path->ifindex, 0);
}

char _license[] SEC("license") = "GPL";
