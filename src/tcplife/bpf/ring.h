/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How records are sent. */
#ifndef TCPLIFE_RING_H
#define TCPLIFE_RING_H

#include "config.h"
#include "shared.h"

/*
 * For the records of a tenth of a second that is as busy as can be. What adds
 * up sends none.
 */
#define RING_BYTES (SUMMARY ? 4096 : (STATES ? 16 : 2) * 1024 * 1024)

/* Records on their way to user space; lives as long as the tool. */
#if TIER <= 2
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} events SEC(".maps");
#else
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");
#endif

/* In this time no ring is filled from where it wakes its reader. */
#define ASK_NS 250000

/* ctx: the program's own, which perf buffers take. */
static __always_inline void send_record(void *ctx, void *record, __u32 size,
					__u64 now)
{
#if TIER <= 2
	/*
	 * The reader comes by itself many times a second: wake it in need. To
	 * ask is not cheap, as all processors write there.
	 */
	__u64 flags = BPF_RB_NO_WAKEUP;

	if (now - cnt()->asked_ns > ASK_NS) {
		cnt()->asked_ns = now;
		if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >=
		    cfg()->wake_bytes)
			flags = BPF_RB_FORCE_WAKEUP;
	}

	if (bpf_ringbuf_output(&events, record, size, flags))
		__sync_fetch_and_add(&cnt()->lost_events, 1);
#else
	/*
	 * Counted here, as the kernel's own count of what finds no room comes
	 * with the next record, if there is one. Before Linux 5.1 the helper
	 * does not say, and that is all there is.
	 */
	if (bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, record,
				  size))
		__sync_fetch_and_add(&cnt()->lost_events, 1);
#endif
}

#endif
