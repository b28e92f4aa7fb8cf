// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Decapsulation: an XDP program on a backend's NIC, for kernels without the ipip and ip6tnl drivers (or
 * without one tunnel device per family). Takes the outer header off IPv4-in-IPv4, IPv6-in-IPv4, IPv4-in-IPv6
 * and IPv6-in-IPv6; the kernel then sees the client's packet to the VIP as if it had come in on this NIC. The
 * answer goes straight back.
 *
 * Only touches a packet that
 *   is addressed to this interface's MAC,
 *   has an outer header without options, extension headers and fragmentation, with a right checksum (IPv4),
 *   whose outer destination this host does not forward (so tunnels through a router stay whole), and
 *   holds an inner packet whose version and length fit in the outer one.
 * Everything else goes to the kernel as it came.
 *
 * ECN goes from the outer to the inner header by RFC 6040 4.2; the one combination without a meaning is
 * dropped. Attached by sluice-decap. uapi headers only; kernels from 5.10 on.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "decap_abi.h"

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, SLUICE_DECAP_STATS);
  __type(key, __u32);
  __type(value, __u64);
} sluice_decaps SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct sluice_decap_config);
} sluice_decapcfg SEC(".maps");

#define AF_INET 2
#define AF_INET6 10
#define ECN_MASK 3
#define ECN_NOT_ECT 0
#define ECN_ECT1 1
#define ECN_ECT0 2
#define ECN_CE 3

/* What the outer header says. */
struct outer {
  __u32 header_bytes;  /* 0: not a tunnel packet */
  __u32 payload_bytes; /* after the outer header */
  __u8 protocol;       /* of the inner packet: IPPROTO_IPIP or IPPROTO_IPV6 */
  __u8 ecn;
  __u8 usable; /* 0: a tunnel packet for the kernel to judge */
};

static __always_inline void count(enum sluice_decap_stat stat) {
  __u32 index = stat;
  __u64* counter = bpf_map_lookup_elem(&sluice_decaps, &index);
  if (counter) (*counter)++;
}

static __always_inline __u16 fold(__u32 sum) {
  sum = (sum & 0xffff) + (sum >> 16);
  return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u16 ipv4_header_sum(const struct iphdr* ip) {
  const __u16* words = (const __u16*)ip;
  __u32 sum = 0;
#pragma unroll
  for (int i = 0; i < 10; i++)
    sum += words[i];
  return fold(sum);
}

static __always_inline int is_inner(__u8 protocol) {
  return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6;
}

/* Is the outer destination somewhere else, and this host the router on the way? */
static __always_inline int is_forwarded(struct xdp_md* ctx, struct bpf_fib_lookup* route) {
  route->ifindex = ctx->ingress_ifindex;
  const long answer = bpf_fib_lookup(ctx, route, sizeof *route, 0);
  return answer != BPF_FIB_LKUP_RET_NOT_FWDED && answer != BPF_FIB_LKUP_RET_FWD_DISABLED;
}

static __always_inline struct outer parse_ipv4(struct xdp_md* ctx, const struct iphdr* ip, const void* end) {
  struct outer outer = {};
  if ((const void*)(ip + 1) > end || ip->version != 4 || !is_inner(ip->protocol)) return outer;
  const __u32 total_bytes = bpf_ntohs(ip->tot_len);
  outer.header_bytes = sizeof *ip;
  outer.protocol = ip->protocol;
  outer.ecn = ip->tos & ECN_MASK;
  if (ip->ihl != 5 || (ip->frag_off & bpf_htons(0x3fff))) return outer;
  if (total_bytes < sizeof *ip || ipv4_header_sum(ip) != 0xffff) return outer;
  if ((const void*)ip + total_bytes > end) return outer;
  outer.payload_bytes = total_bytes - sizeof *ip;
  struct bpf_fib_lookup route = {.family = AF_INET, .ipv4_src = ip->saddr, .ipv4_dst = ip->daddr};
  outer.usable = !is_forwarded(ctx, &route);
  return outer;
}

static __always_inline __u8 ipv6_ecn(const struct ipv6hdr* ip) {
  return (ip->flow_lbl[0] >> 4) & ECN_MASK;
}

static __always_inline struct outer parse_ipv6(struct xdp_md* ctx, const struct ipv6hdr* ip,
                                               const void* end) {
  struct outer outer = {};
  if ((const void*)(ip + 1) > end || ip->version != 6 || !is_inner(ip->nexthdr)) return outer;
  outer.header_bytes = sizeof *ip;
  outer.protocol = ip->nexthdr;
  outer.ecn = ipv6_ecn(ip);
  outer.payload_bytes = bpf_ntohs(ip->payload_len);
  if ((const void*)(ip + 1) + outer.payload_bytes > end) return outer;
  struct bpf_fib_lookup route = {.family = AF_INET6};
  __builtin_memcpy(route.ipv6_src, &ip->saddr, 16);
  __builtin_memcpy(route.ipv6_dst, &ip->daddr, 16);
  outer.usable = !is_forwarded(ctx, &route);
  return outer;
}

/* RFC 6040 4.2, figure 4. Returns the inner field's new value, or -1 where it asks for a drop. */
static __always_inline int merge_ecn(__u8 outer, __u8 inner) {
  if (outer == ECN_CE) return inner == ECN_NOT_ECT ? -1 : ECN_CE;
  if (outer == ECN_ECT1 && inner == ECN_ECT0) return ECN_ECT1;
  return inner;
}

/* RFC 1624 eqn. 3 for the first word of the header (version, TOS). */
static __always_inline void set_ipv4_ecn(struct iphdr* ip, __u8 ecn) {
  __u16* first = (__u16*)ip;
  const __u16 before = *first;
  ip->tos = (ip->tos & ~ECN_MASK) | ecn;
  ip->check = ~fold((__u32)(__u16)~ip->check + (__u16)~before + *first);
}

enum inner_verdict { INNER_GOOD, INNER_BAD, INNER_DROP };

static __always_inline enum inner_verdict prepare_inner_ipv4(struct iphdr* ip, const void* end,
                                                             const struct outer* outer) {
  if ((const void*)(ip + 1) > end || ip->version != 4 || ip->ihl < 5) return INNER_BAD;
  const __u32 total_bytes = bpf_ntohs(ip->tot_len);
  if (total_bytes < ip->ihl * 4u || total_bytes > outer->payload_bytes) return INNER_BAD;
  const __u8 inner = ip->tos & ECN_MASK;
  const int ecn = merge_ecn(outer->ecn, inner);
  if (ecn < 0) return INNER_DROP;
  if (ecn != inner) set_ipv4_ecn(ip, ecn);
  return INNER_GOOD;
}

static __always_inline enum inner_verdict prepare_inner_ipv6(struct ipv6hdr* ip, const void* end,
                                                             const struct outer* outer) {
  if ((const void*)(ip + 1) > end || ip->version != 6) return INNER_BAD;
  if (sizeof *ip + bpf_ntohs(ip->payload_len) > outer->payload_bytes) return INNER_BAD;
  const int ecn = merge_ecn(outer->ecn, ipv6_ecn(ip));
  if (ecn < 0) return INNER_DROP;
  ip->flow_lbl[0] = (ip->flow_lbl[0] & ~(ECN_MASK << 4)) | (ecn << 4);
  return INNER_GOOD;
}

static __always_inline int is_for_this_host(const struct ethhdr* ethernet) {
  __u32 zero = 0;
  const struct sluice_decap_config* config = bpf_map_lookup_elem(&sluice_decapcfg, &zero);
  if (!config) return 0;
  const __u16* to = (const __u16*)ethernet->h_dest;
  const __u16* mine = (const __u16*)config->mac;
  return to[0] == mine[0] && to[1] == mine[1] && to[2] == mine[2];
}

/* Moves the Ethernet header up to the inner packet. Both header sizes are compile-time constants at the call
 * sites. */
static __always_inline int strip(struct xdp_md* ctx, __u32 header_bytes, __be16 ether_type) {
  struct ethhdr* from = (void*)(long)ctx->data;
  const void* end = (const void*)(long)ctx->data_end;
  struct ethhdr* to = (void*)from + header_bytes;
  if ((const void*)(from + 1) > end || (const void*)(to + 1) > end) return -1;
  const struct ethhdr copy = *from;
  *to = copy;
  to->h_proto = ether_type;
  return bpf_xdp_adjust_head(ctx, (int)header_bytes);
}

static __always_inline int decapsulate(struct xdp_md* ctx, const struct outer* outer, __u32 header_bytes) {
  void* inner = (void*)(long)ctx->data + sizeof(struct ethhdr) + header_bytes;
  const void* end = (const void*)(long)ctx->data_end;
  const int inner_is_v4 = outer->protocol == IPPROTO_IPIP;
  const enum inner_verdict verdict =
      inner_is_v4 ? prepare_inner_ipv4(inner, end, outer) : prepare_inner_ipv6(inner, end, outer);
  if (verdict == INNER_DROP) {
    count(SLUICE_DECAP_DROPPED_ECN);
    return XDP_DROP;
  }
  if (verdict == INNER_BAD) {
    count(SLUICE_DECAP_PASSED);
    return XDP_PASS;
  }
  /* The inner ECN field is written already: a packet that cannot be stripped now is not what came in any
   * more. */
  if (strip(ctx, header_bytes, inner_is_v4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6)) != 0)
    return XDP_ABORTED;
  if (header_bytes == sizeof(struct iphdr)) {
    count(inner_is_v4 ? SLUICE_DECAP_V4_IN_V4 : SLUICE_DECAP_V6_IN_V4);
  } else {
    count(inner_is_v4 ? SLUICE_DECAP_V4_IN_V6 : SLUICE_DECAP_V6_IN_V6);
  }
  return XDP_PASS;
}

SEC("xdp")
int sluice_decap(struct xdp_md* ctx) {
  const struct ethhdr* ethernet = (const void*)(long)ctx->data;
  const void* end = (const void*)(long)ctx->data_end;
  if ((const void*)(ethernet + 1) > end || !is_for_this_host(ethernet)) return XDP_PASS;

  struct outer outer = {};
  if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
    outer = parse_ipv4(ctx, (const void*)(ethernet + 1), end);
  } else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
    outer = parse_ipv6(ctx, (const void*)(ethernet + 1), end);
  }
  if (outer.header_bytes == 0) return XDP_PASS;
  if (!outer.usable) {
    count(SLUICE_DECAP_PASSED);
    return XDP_PASS;
  }
  return outer.header_bytes == sizeof(struct iphdr) ? decapsulate(ctx, &outer, sizeof(struct iphdr))
                                                    : decapsulate(ctx, &outer, sizeof(struct ipv6hdr));
}

char _license[] SEC("license") = "GPL";
