/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Adding up instead of telling: no record leaves the kernel. What is kept of a
 * group (struct GROUP, which the program has declared) are, in struct TOTALS,
 * counts and sums, and of each quantity a histogram whose buckets are entries
 * of a hash: most are empty.
 *
 * There are two sets of maps. User space has the programs use the other one
 * (control.filled), waits for those that run, and reads and empties the first
 * in peace.
 */
#ifndef TCPLIFE_SUMMARY_H
#define TCPLIFE_SUMMARY_H

#include "trace.h"

/* A bucket of a group's histogram of a quantity. */
struct bucket_key {
	__u32 group;
	__u16 quantity;
	__u16 bucket;
};

struct buckets {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct bucket_key);
	__type(value, __u64);
};

struct buckets buckets_0 SEC(".maps");
struct buckets buckets_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, struct buckets);
} buckets SEC(".maps") = {.values = {&buckets_0, &buckets_1}};

/*
 * Most counts are of few buckets: each of those has a slot of its own, which
 * costs a fifth of a look into the hash. Where another has the slot, the hash
 * takes it.
 */
#define HOT_BITS 12

struct hot_bucket {
	__u64 key; /* struct bucket_key as a number; 0: free */
	__u64 count;
};

/* Both sets, one after the other. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 << HOT_BITS);
	__type(key, __u32);
	__type(value, struct hot_bucket);
} hot_buckets SEC(".maps");

struct groups {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4097);
	__type(key, struct GROUP);
	__type(value, struct TOTALS);
};

struct groups groups_0 SEC(".maps");
struct groups groups_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, struct groups);
} groups SEC(".maps") = {.values = {&groups_0, &groups_1}};

/*
 * Most sessions are of few groups, too: for them a slot is a cache of the hash,
 * which costs a sixth of a look into that. It has counts and sums of its own.
 */
#define HOT_GROUPS_BITS 9

struct hot_group {
	__u64 state; /* 0: free, TAKEN: being written, else mark_of() */
	struct GROUP group;
	struct TOTALS totals;
};

#define TAKEN 2

/* Both sets, one after the other. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 << HOT_GROUPS_BITS);
	__type(key, __u32);
	__type(value, struct hot_group);
} hot_groups SEC(".maps");

/* Zeros to begin with, too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct TOTALS);
} blank_totals SEC(".maps");

/* To be asked for once a session, or else it might be counted in both. */
static __always_inline __u32 filled_set(void)
{
	return *(volatile __u64 *)&control.filled;
}

/*
 * Log-linear: exact below 128, from there 64 buckets for each power of two.
 * What lies in a bucket is less than 0.8 % off its middle.
 */
static __always_inline __u16 bucket_of(__u64 value)
{
	__u64 high = value >> 7;
	__u32 shift = 0;

	if (high >> 32) {
		high >>= 32;
		shift += 32;
	}
	if (high >> 16) {
		high >>= 16;
		shift += 16;
	}
	if (high >> 8) {
		high >>= 8;
		shift += 8;
	}
	if (high >> 4) {
		high >>= 4;
		shift += 4;
	}
	if (high >> 2) {
		high >>= 2;
		shift += 2;
	}
	if (high >> 1) {
		high >>= 1;
		shift += 1;
	}
	shift += high;
	return (shift << 6) + (value >> shift);
}

/* Where one session is counted. */
struct place {
	__u32 set;
	__u32 group;
	struct quantity_sum *sums;
};

static __always_inline struct place place_in(__u32 set, struct TOTALS *totals)
{
	struct place place = {
		.set = set,
		.group = totals->id,
		.sums = totals->sums,
	};

	return place;
}

static __always_inline bool count_hot(const struct place *place,
				      struct bucket_key of)
{
	__u64 key =
		of.group | (__u64)of.quantity << 32 | (__u64)of.bucket << 48;
	__u32 slot = place->set << HOT_BITS | hash_of(key, HOT_BITS);
	struct hot_bucket *hot = bpf_map_lookup_elem(&hot_buckets, &slot);
	__u64 seen;

	if (!hot)
		return false;
	seen = hot->key;
	if (!seen)
		seen = __sync_val_compare_and_swap(&hot->key, 0, key);
	if (seen && seen != key)
		return false;
	__sync_fetch_and_add(&hot->count, 1);
	return true;
}

static __always_inline void count_bucket(const struct place *place,
					 __u16 quantity, __u64 value)
{
	struct bucket_key key = {place->group, quantity, bucket_of(value)};
	__u32 set = place->set;
	__u64 one = 1;
	__u64 *count;
	void *map;

	if (count_hot(place, key))
		return;
	map = bpf_map_lookup_elem(&buckets, &set);
	if (!map)
		return;
	count = bpf_map_lookup_elem(map, &key);
	if (!count && !bpf_map_update_elem(map, &key, &one, BPF_NOEXIST))
		return;
	if (!count) /* made on another processor meanwhile, or no room */
		count = bpf_map_lookup_elem(map, &key);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		__sync_fetch_and_add(&counted.uncounted, 1);
}

static __always_inline void keep_most(__u64 *most, __u64 value)
{
	for (int i = 0; i < 8; i++) {
		__u64 seen = *(volatile __u64 *)most;

		if (value <= seen ||
		    __sync_val_compare_and_swap(most, seen, value) == seen)
			return;
	}
}

/* A hash, and odd: neither 0 nor TAKEN. */
static __always_inline __u64 mark_of(const struct GROUP *group)
{
	const __u64 *words = (const __u64 *)group;
	__u64 mark = 0;

	/* Products that do not wait for one another. */
	for (unsigned int i = 0; i < sizeof(*group) / 8; i++)
		if (config.words & 1U << i)
			mark += words[i] *
				(0x9e3779b97f4a7c15ULL * (2 * i + 1));
	return mark | 1;
}

static __always_inline struct hot_group *hot_slot(__u32 set, __u64 mark)
{
	__u32 slot = set << HOT_GROUPS_BITS | mark >> (64 - HOT_GROUPS_BITS);

	return bpf_map_lookup_elem(&hot_groups, &slot);
}

/*
 * Where the mark is seen but not yet what was written before it, as may be on
 * arm64, it is not the same group: it only goes to the hash.
 */
static __always_inline bool same_group(const struct GROUP *a,
				       const struct GROUP *b)
{
	const __u64 *left = (const __u64 *)a;
	const __u64 *right = (const __u64 *)b;
	__u64 difference = 0;

	for (unsigned int i = 0; i < sizeof(*a) / 8; i++)
		if (config.words & 1U << i)
			difference |= left[i] ^ right[i];
	return !difference;
}

static __always_inline void take_slot(struct hot_group *hot, __u64 mark,
				      const struct GROUP *group, __u32 id)
{
	if (hot->state || __sync_val_compare_and_swap(&hot->state, 0, TAKEN))
		return;
	hot->group = *group;
	hot->totals.id = id;
	__sync_val_compare_and_swap(&hot->state, TAKEN, mark);
}

/*
 * What is kept of a group. One that finds no room becomes part of the group of
 * all others, which user space has put there.
 */
static __always_inline struct TOTALS *totals_of(__u32 set, struct GROUP *group)
{
	__u64 mark = mark_of(group);
	struct hot_group *hot = hot_slot(set, mark);
	struct TOTALS *totals;
	__u32 key = 0;
	void *blank;
	void *map;
	__u32 id;

	if (hot && hot->state == mark && same_group(&hot->group, group))
		return &hot->totals;
	map = bpf_map_lookup_elem(&groups, &set);
	if (!map)
		return NULL;
	totals = bpf_map_lookup_elem(map, group);
	if (!totals) {
		blank = bpf_map_lookup_elem(&blank_totals, &key);
		if (blank)
			bpf_map_update_elem(map, group, blank, BPF_NOEXIST);
		totals = bpf_map_lookup_elem(map, group);
	}
	if (!totals) {
		__sync_fetch_and_add(&counted.folded, 1);
		__builtin_memset(group, 0, sizeof(*group));
		group->other = 1;
		totals = bpf_map_lookup_elem(map, group);
	}
	if (totals && !totals->id) {
		/* Several may want to number it: one does. */
		id = __sync_fetch_and_add(&counted.groups, 1) + 1;
		__sync_val_compare_and_swap(&totals->id, 0, id);
	}
	if (totals && hot && !group->other)
		take_slot(hot, mark, group, totals->id);
	return totals;
}

static __always_inline void count_quantity(const struct place *place,
					   __u16 quantity, __u64 value)
{
	struct quantity_sum *sum = &place->sums[quantity];

	if (!(config.quantities & 1U << quantity))
		return;
	__sync_fetch_and_add(&sum->total, value);
	keep_most(&sum->most, value);
	count_bucket(place, quantity, value);
}

/* What not each session has. */
static __always_inline void count_some(const struct place *place,
				       __u16 quantity, __u64 value)
{
	if (!(config.quantities & 1U << quantity))
		return;
	__sync_fetch_and_add(&place->sums[quantity].count, 1);
	count_quantity(place, quantity, value);
}

#endif
