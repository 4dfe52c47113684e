/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is kept of a few sockets, for as long as they live: in their own storage
 * or, where there is none for tracing (before Linux 5.11), in a hash by their
 * address.
 */
#ifndef TCPLIFE_STORAGE_H
#define TCPLIFE_STORAGE_H

#include "tier.h"

#if TIER == 1
#define PER_SOCKET(kind, name)                                                 \
	struct {                                                               \
		__uint(type, BPF_MAP_TYPE_SK_STORAGE);                         \
		__uint(map_flags, BPF_F_NO_PREALLOC);                          \
		__type(key, int);                                              \
		__type(value, struct kind);                                    \
	} name SEC(".maps");
#define of_socket(name, sk) bpf_sk_storage_get(&name, sk, NULL, 0)
#define add_to_socket(name, sk)                                                \
	bpf_sk_storage_get(&name, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE)
#define take_from_socket(name, sk) ((void)0)
#else
#define PER_SOCKET(kind, name)                                                 \
	struct {                                                               \
		__uint(type, BPF_MAP_TYPE_HASH);                               \
		__uint(max_entries, 8192);                                     \
		__type(key, __u64);                                            \
		__type(value, struct kind);                                    \
	} name SEC(".maps");                                                   \
	/* Too large for the stack: zeros to begin with. */                    \
	ONE_ELEMENT(kind, blank_##name);

static __always_inline void *in_hash(void *map, struct sock *sk)
{
	__u64 key = (__u64)sk;

	return bpf_map_lookup_elem(map, &key);
}

static __always_inline void *add_to_hash(void *map, void *blanks,
					 struct sock *sk)
{
	__u64 key = (__u64)sk;
	__u32 first = 0;
	void *found = bpf_map_lookup_elem(map, &key);
	void *blank;

	if (found)
		return found;
	blank = bpf_map_lookup_elem(blanks, &first);
	if (!blank || bpf_map_update_elem(map, &key, blank, BPF_ANY))
		return NULL;
	return bpf_map_lookup_elem(map, &key);
}

static __always_inline bool delete_from_hash(void *map, struct sock *sk)
{
	__u64 key = (__u64)sk;

	return !bpf_map_delete_elem(map, &key);
}

#define of_socket(name, sk) in_hash(&name, sk)
#define add_to_socket(name, sk) add_to_hash(&name, &blank_##name, sk)
#define take_from_socket(name, sk) delete_from_hash(&name, sk)
#endif

#endif
