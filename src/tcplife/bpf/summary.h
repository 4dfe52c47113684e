/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Adding up instead of sending: no record leaves the kernel. What is kept of a
 * group are counts and sums, and of each quantity a histogram whose buckets are
 * entries of a hash: most are empty.
 *
 * Of each tool is what is added up (struct EVENT), what of it counts (struct
 * FIGURES, which take_figures() fills), the groups (struct GROUP: words of 8
 * bytes, which group_word() makes of figures), and what is kept of one (struct
 * TOTALS), to which count_figures() adds.
 *
 * There are two sets of maps. User space has the programs use the other one
 * (ctl()->filled), waits for those that run, and reads and empties the first
 * in peace.
 */
#ifndef TCPLIFE_SUMMARY_H
#define TCPLIFE_SUMMARY_H

#include "config.h"
#include "quantity.h"
#include "shared.h"
#include "socket.h"
#include "tier.h"
#if STATES
#include "state_groups.h"
#else
#include "session_groups.h"
#endif

/* What user space knows of the slots and batches below. */
enum limit {
	LIMIT_SLOT_BYTES = 4096, /* a page */
	LIMIT_BATCHES = 10,
};

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
 * Most sessions belong to few groups: those have slots, of each processor's
 * own, where nothing has to be atomic, nor to come from another processor's
 * cache. A slot is a page: a cache of the hash, with counts and sums of its
 * own, and with those of the buckets that have room in it.
 */
struct hot_bucket {
	__u32 key; /* quantity + 1, and bucket; 0: free */
	__u32 count;
};

struct hot_state {
	__u64 mark; /* mark_of() the group; 0: free */
	__u32 busy; /* a program adds to it */
	__u32 unused;
};

struct hot_head {
	struct hot_state state;
	struct GROUP group;
	struct TOTALS totals;
};

#define HOT_BUCKETS                                                            \
	((LIMIT_SLOT_BYTES - sizeof(struct hot_head)) /                        \
	 sizeof(struct hot_bucket))
/* How many of them, one after the other, may count a value. */
#define HOT_TRIES 4

struct hot {
	struct hot_head head;
	struct hot_bucket buckets[HOT_BUCKETS];
};
_Static_assert(sizeof(struct hot) == LIMIT_SLOT_BYTES, "a slot is a page");

/* By processor, set and group; user space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hot);
} hot SEC(".maps");

/*
 * To count takes code and memory that what was done since the last time has
 * pushed out of the processor's caches. So each processor's figures wait until
 * they fill a batch. What interrupts a program that adds to one, or on Linux 7
 * runs while that waits for its turn, takes the next: there are as many as
 * there are programs, of which a processor runs each once at a time
 * (changes.h).
 */
#define BATCH_SIZE 32

struct batch {
	__u32 busy; /* a program adds to it */
	__u32 size;
	__u64 unused[7];
	struct FIGURES figures[BATCH_SIZE];
};

/*
 * By processor, set and number; user space sets the size. Nobody maps it, but
 * what can be mapped begins where a cache's line does.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct batch);
} batches SEC(".maps");

/* Zeros to begin with, too large for the stack. */
ONE_ELEMENT(TOTALS, blank_totals);

/*
 * Log-linear: exact below 128, from there 64 buckets for each power of two.
 * What lies in a bucket is less than 0.8 % off its middle.
 */
enum histogram {
	HISTOGRAM_EXACT_BITS = 7,
	HISTOGRAM_STEP_BITS = 6,
};

static __always_inline __u16 bucket_of(__u64 value)
{
	__u64 high = value >> HISTOGRAM_EXACT_BITS;
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
	return (shift << HISTOGRAM_STEP_BITS) + (value >> shift);
}

/* Where one session is cnt()-> */
struct tally {
	__u32 set;
	struct hot *hot; /* NULL: in the hashes */
	struct TOTALS *totals;
};

static __always_inline void add_to(const struct tally *tally, __u64 *sum,
				   __u64 amount)
{
	if (tally->hot)
		*sum += amount;
	else
		__sync_fetch_and_add(sum, amount);
}

static __always_inline bool count_in_slot(struct hot *hot, __u16 quantity,
					  __u16 bucket)
{
	__u32 key = (quantity + 1) << 16 | bucket;
	__u64 hash = key * GOLDEN_RATIO_32;
	__u32 first = hash * (HOT_BUCKETS - HOT_TRIES + 1) >> 32;

	for (int i = 0; i < HOT_TRIES; i++) {
		struct hot_bucket *slot = &hot->buckets[first + i];

		if (!slot->key)
			slot->key = key;
		if (slot->key == key && slot->count != (__u32)-1) {
			slot->count++;
			return true;
		}
	}
	return false;
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

static __always_inline void count_in_hash(__u32 set, struct bucket_key key)
{
	__u64 one = 1;
	__u64 *count;
	void *map;

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
		__sync_fetch_and_add(&cnt()->uncounted, 1);
}

/*
 * Not static: the verifier goes through it once, and not at each call. It takes
 * pointers there since Linux 5.13, and they may be NULL. where: set and group.
 */
__noinline int count_value(struct hot *hot, struct quantity_sum *sum,
			   __u64 value, __u32 quantity, __u64 where)
{
	__u16 bucket = bucket_of(value);

	if (!sum)
		return 0;
	if (hot) {
		sum->total += value;
		if (sum->most < value)
			sum->most = value;
		if (count_in_slot(hot, quantity, bucket))
			return 0;
	} else {
		__sync_fetch_and_add(&sum->total, value);
		keep_most(&sum->most, value);
	}
	count_in_hash(where >> 32,
		      (struct bucket_key){where, quantity, bucket});
	return 0;
}

static __always_inline void count_quantity(const struct tally *tally,
					   __u16 quantity, __u64 value)
{
	if (cfg()->quantities & 1U << quantity)
		count_value(tally->hot, &tally->totals->sums[quantity], value,
			    quantity,
			    (__u64)tally->set << 32 | tally->totals->id);
}

static __always_inline void count_some(const struct tally *tally,
				       __u16 quantity, __u64 value)
{
	if (!(cfg()->quantities & 1U << quantity))
		return;
	add_to(tally, &tally->totals->sums[quantity].count, 1);
	count_quantity(tally, quantity, value);
}

#define GROUP_WORDS (sizeof(struct GROUP) / 8)

static __always_inline bool is_used(unsigned int number)
{
	return cfg()->words & 1U << number;
}

static __always_inline void make_group(struct GROUP *group,
				       const struct FIGURES *figures)
{
	__u64 *words = (__u64 *)group;

	for (unsigned int i = 0; i < GROUP_WORDS; i++)
		words[i] = is_used(i) ? group_word(figures, i) : 0;
}

static __always_inline bool is_of_group(const struct FIGURES *figures,
					const struct GROUP *group)
{
	const __u64 *words = (const __u64 *)group;
	__u64 difference = 0;

	for (unsigned int i = 0; i < GROUP_WORDS; i++)
		if (is_used(i))
			difference |= words[i] ^ group_word(figures, i);
	return !difference;
}

/* A hash of the event's group, and odd: not 0. */
static __always_inline __u64 mark_of(const struct FIGURES *figures)
{
	__u64 mark = 0;

	/* Products that do not wait for one another. */
	for (unsigned int i = 0; i < GROUP_WORDS; i++)
		if (is_used(i))
			mark += group_word(figures, i) *
				(GOLDEN_RATIO_64 * (2 * i + 1));
	return mark | 1;
}

/* What is kept of a group in the hash; NULL if there is no room for it. */
static __always_inline struct TOTALS *totals_of(struct GROUP *group, __u32 set)
{
	void *map = bpf_map_lookup_elem(&groups, &set);
	struct TOTALS *totals;
	__u32 key = 0;
	void *blank;
	__u32 id;

	if (!map)
		return NULL;
	totals = bpf_map_lookup_elem(map, group);
	if (!totals) {
		blank = bpf_map_lookup_elem(&blank_totals, &key);
		if (blank)
			bpf_map_update_elem(map, group, blank, BPF_NOEXIST);
		totals = bpf_map_lookup_elem(map, group);
	}
	if (totals && !totals->id) {
		/* Several may want to number it: one does. */
		id = __sync_fetch_and_add(&cnt()->groups, 1) + 1;
		__sync_val_compare_and_swap(&totals->id, 0, id);
	}
	return totals;
}

/* 0 if there is no room. */
__noinline int number_in_hash(struct GROUP *group, __u32 set)
{
	struct TOTALS *totals = group ? totals_of(group, set) : NULL;

	return totals ? totals->id : 0;
}

static __always_inline void let_go(__u32 *busy)
{
	barrier();
	*(volatile __u32 *)busy = 0;
}

/*
 * The group's slot, or one that is free, for this program alone until it lets
 * go of it: what interrupts it goes to the hashes, and so does, on Linux 7,
 * what runs while it waits for its turn (changes.h).
 */
static __always_inline struct hot *hold_slot(const struct FIGURES *figures,
					     __u32 set, __u64 mark)
{
	__u32 first = (bpf_get_smp_processor_id() << 1 | set)
		      << cfg()->hot_bits;

	for (__u32 i = 0; i < 2; i++) {
		__u32 key = first | (mark >> (64 - cfg()->hot_bits) ^ i);
		struct hot *slot = bpf_map_lookup_elem(&hot, &key);

		if (!slot)
			return NULL;
		if (slot->head.state.mark && slot->head.state.mark != mark)
			continue;
		if (__sync_val_compare_and_swap(&slot->head.state.busy, 0, 1))
			return NULL;
		if (!slot->head.state.mark ||
		    is_of_group(figures, &slot->head.group))
			return slot;
		let_go(&slot->head.state.busy);
	}
	return NULL;
}

/* In a slot: returns 0 if there is none. */
__noinline int count_hot(const struct FIGURES *figures, __u32 set)
{
	struct tally tally = {.set = set};
	struct hot *slot;
	__u64 mark;

	if (!figures)
		return 0;
	mark = mark_of(figures);
	slot = hold_slot(figures, set, mark);
	if (!slot)
		return 0;
	if (!slot->head.state.mark) {
		make_group(&slot->head.group, figures);
		slot->head.totals.id = number_in_hash(&slot->head.group, set);
		if (!slot->head.totals.id) {
			let_go(&slot->head.state.busy);
			return 0;
		}
		slot->head.state.mark = mark;
	}
	tally.hot = slot;
	tally.totals = &slot->head.totals;
	count_figures(&tally, tally.totals, figures);
	let_go(&slot->head.state.busy);
	return 1;
}

/*
 * In the hashes. A group that finds no room there becomes part of that of all
 * others, which user space has put there.
 */
__noinline int count_cold(const struct FIGURES *figures, __u32 set)
{
	struct tally tally = {.set = set};
	struct GROUP group;

	if (!figures)
		return 0;
	make_group(&group, figures);
	tally.totals = totals_of(&group, set);
	if (!tally.totals) {
		__sync_fetch_and_add(&cnt()->folded, 1);
		__builtin_memset(&group, 0, sizeof(group));
		group.other = 1;
		tally.totals = totals_of(&group, set);
	}
	if (tally.totals)
		count_figures(&tally, tally.totals, figures);
	return 0;
}

__noinline int count_batch(struct batch *batch, __u32 set)
{
	if (!batch)
		return 0;
	for (__u32 i = 0; i < BATCH_SIZE; i++) {
		if (i >= batch->size)
			break;
		if (!count_hot(&batch->figures[i], set))
			count_cold(&batch->figures[i], set);
	}
	batch->size = 0;
	return 0;
}

static __always_inline struct batch *batch_of(__u32 processor, __u32 set,
					      __u32 number)
{
	__u32 key = (processor << 1 | set) * cfg()->batches + number;

	return bpf_map_lookup_elem(&batches, &key);
}

static __always_inline struct batch *hold_batch(__u32 set)
{
	__u32 processor = bpf_get_smp_processor_id();

	for (__u32 i = 0; i < LIMIT_BATCHES && i < cfg()->batches; i++) {
		struct batch *batch = batch_of(processor, set, i);

		if (!batch)
			return NULL;
		if (!__sync_val_compare_and_swap(&batch->busy, 0, 1))
			return batch;
	}
	return NULL;
}

/* The set is asked for once, or an event might be counted in both. */
static __always_inline void count_event(const struct EVENT *event)
{
	__u32 set = *(volatile __u64 *)&ctl()->filled;
	struct batch *batch = hold_batch(set);

	if (!batch) { /* which cannot be */
		__sync_fetch_and_add(&cnt()->lost_events, 1);
		return;
	}
	take_figures(&batch->figures[batch->size % BATCH_SIZE], event);
	if (++batch->size >= BATCH_SIZE)
		count_batch(batch, set);
	let_go(&batch->busy);
}

/* What still waits of the set that isn't filled. Runs at once: there is a map.
 */
SEC("iter/bpf_map")
int count_rest(struct bpf_iter__bpf_map *ctx)
{
	__u32 set = !ctl()->filled;

	if (ctx->meta->seq_num)
		return 0;
	for (__u32 processor = 0; processor < cfg()->processors; processor++)
		for (__u32 i = 0; i < LIMIT_BATCHES && i < cfg()->batches; i++)
			count_batch(batch_of(processor, set, i), set);
	return 0;
}

#endif
