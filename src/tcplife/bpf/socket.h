/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is asked of a socket, whatever its session. */
#ifndef TCPLIFE_SOCKET_H
#define TCPLIFE_SOCKET_H

#include "shared.h"
#include "tier.h"

/*
 * Does the current task act on the socket, and for itself? Who walks over open
 * files holds each for a moment: closed just then, it is the walker that closes
 * it in the end (fs/file_table.c, fput()).
 */
static __always_inline bool acting(const struct sock *sk)
{
	return FIELD(sk, sk_lock.owned) &&
	       !(ctl()->tool &&
		 bpf_get_current_pid_tgid() >> 32 == ctl()->tool);
}

static __always_inline bool has_flag(const struct sock *sk, int flag)
{
	return FIELD(sk, __sk_common.skc_flags) >> flag & 1;
}

/*
 * A number for each socket. Where the verifier takes it for a pointer,
 * which may not be calculated with, it is the difference of two.
 */
static __always_inline __u64 number_of(const struct sock *sk)
{
	__u64 number = (__u64)sk;

#if TIER <= 2
	asm volatile("%0 -= %1" : "+r"(number) : "r"(&shared));
#endif
	return number;
}

/* 2^64 and 2^32 by the golden ratio, which spreads (Knuth, TAOCP 3, 6.4). */
#define GOLDEN_RATIO_64 0x9e3779b97f4a7c15ULL
#define GOLDEN_RATIO_32 0x9e3779b1U

static __always_inline __u32 hash_of(__u64 number, int bits)
{
	return number * GOLDEN_RATIO_64 >> (64 - bits);
}

#endif
