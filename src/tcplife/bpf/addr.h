/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses: IPv6, or IPv4 mapped into it. */
#ifndef TCPLIFE_ADDR_H
#define TCPLIFE_ADDR_H

#include "config.h"
#include "tier.h"

#include <bpf/bpf_endian.h>

#if TIER == 1
#define copy_addr(to, sk, field)                                               \
	do {                                                                   \
		__u32 *words = (__u32 *)(to);                                  \
		words[0] = (sk)->field.in6_u.u6_addr32[0];                     \
		words[1] = (sk)->field.in6_u.u6_addr32[1];                     \
		words[2] = (sk)->field.in6_u.u6_addr32[2];                     \
		words[3] = (sk)->field.in6_u.u6_addr32[3];                     \
	} while (0)
#else
#define copy_addr(to, sk, field) bpf_core_read(to, 16, &(sk)->field)
#endif

static __always_inline void map_addr(__u8 *to, __u32 addr)
{
	__u32 *words = (__u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = addr;
}

static __always_inline bool is_inet6(const struct sock *sk)
{
	return FIELD(sk, __sk_common.skc_family) == AF_INET6 &&
	       bpf_core_field_exists(sk->__sk_common.skc_v6_daddr);
}

static __always_inline void set_addresses(__u8 *laddr, __u8 *raddr,
					  const struct sock *sk)
{
	if (is_inet6(sk)) {
		copy_addr(laddr, sk, __sk_common.skc_v6_rcv_saddr);
		copy_addr(raddr, sk, __sk_common.skc_v6_daddr);
	} else {
		map_addr(laddr, FIELD(sk, __sk_common.skc_rcv_saddr));
		map_addr(raddr, FIELD(sk, __sk_common.skc_daddr));
	}
}

/* IPv4 through an IPv6 socket is IPv4. */
static __always_inline bool wanted_family(const struct sock *sk)
{
	__u32 addr[4];

	if (!cfg()->family)
		return true;
	if (!is_inet6(sk))
		return cfg()->family == 4;
	copy_addr(addr, sk, __sk_common.skc_v6_daddr);
	return cfg()->family ==
	       (!addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff) ? 4 : 6);
}

#endif
