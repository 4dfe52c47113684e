/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How the tiers differ. What a session is, is elsewhere, once for all tiers.
 *
 *	    attached to		 state is kept in	  records go through
 * TIER 1   tp_btf		 array, socket storage   ring buffer
 * TIER 2   tp_btf		 hash			  ring buffer
 * TIER 3   raw tracepoints	 hash			  perf buffers
 * TIER 4   kprobes		 hash			  perf buffers
 *
 * Tiers 3 and 4 do without global variables, which Linux has since 5.2.
 */
#ifndef TCPLIFE_TIER_H
#define TCPLIFE_TIER_H

#include "build.h"
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* The functions that add up take their part of the 512 bytes of stack. */
#if SUMMARY
#define APART static __noinline
#else
#define APART static __always_inline
#endif

/* A map with one element. */
#define ONE_ELEMENT(kind, name)                                                \
	struct {                                                               \
		__uint(type, BPF_MAP_TYPE_ARRAY);                              \
		__uint(max_entries, 1);                                        \
		__type(key, __u32);                                            \
		__type(value, struct kind);                                    \
	} name SEC(".maps")

/*
 * The element of such a map. It is always there, which the verifier does not
 * know: for its sake alone the program would exit.
 */
static __always_inline void *element_or_exit(void *map)
{
	__u32 key = 0;
	void *found = bpf_map_lookup_elem(map, &key);

	asm volatile("if %0 != 0 goto +2\n\tr0 = 0\n\texit"
		     : "+r"(found)
		     :
		     : "r0");
	return found;
}

/*
 * A field of the kernel's. Tier 1 reads it like any other. The others read
 * through a helper: they have no more than the address of a socket, or run on
 * kernels that take it for no more.
 */
#if TIER == 1
#define FIELD(object, field) ((object)->field)
#define READ_ARRAY(to, object, field)                                          \
	__builtin_memcpy(to, (object)->field, sizeof(to))
#define current_task() bpf_get_current_task_btf()
#define as_tcp_sock(sk) bpf_skc_to_tcp_sock(sk)
#else
#define FIELD(object, field) BPF_CORE_READ(object, field)
#define READ_ARRAY(to, object, field) BPF_CORE_READ_INTO(&(to), object, field)
#define current_task() ((struct task_struct *)bpf_get_current_task())
#define as_tcp_sock(sk) ((struct tcp_sock *)(sk))
#endif

/* What older kernels lack is 0. */
#define FIELD_OR_0(object, field)                                              \
	(bpf_core_field_exists((object)->field) ? FIELD(object, field) : 0)

/* Bit fields before Linux 5.6. */
#if TIER == 1
#define BITS(object, field) ((object)->field)
#else
#define BITS(object, field) BPF_CORE_READ_BITFIELD_PROBED(object, field)
#endif

#endif
