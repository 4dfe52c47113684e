/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The filters that need a session's whole story. User space fills the maps and
 * sets their sizes before the programs are attached; they live as long as the
 * tool.
 */
#ifndef TCPLIFE_FILTERS_H
#define TCPLIFE_FILTERS_H

#include "session.h"

struct subnet {
	__u32 prefix; /* bits, of the address as IPv6 */
	__u8 addr[16];
};

struct subnets {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct subnet);
	__type(value, __u8);
};

struct subnets laddrs SEC(".maps");
struct subnets raddrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, char[16]);
	__type(value, __u8);
} comms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8);
} uids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8);
} namespaces SEC(".maps");

/* By their ids; cgroups.bpf.c adds those that are made within them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u8);
} cgroups SEC(".maps");

static __always_inline bool wanted_owner(const struct owner *owner,
					 const struct owner_more *more)
{
	if (!wanted_pid(owner->pid))
		return false;
	if (config.filter_comm && !bpf_map_lookup_elem(&comms, owner->comm))
		return false;
	if (config.filter_uid &&
	    (!owner->pid || !bpf_map_lookup_elem(&uids, &more->uid)))
		return false;
	return !config.filter_cgroup ||
	       bpf_map_lookup_elem(&cgroups, &more->cgroup);
}

static __always_inline bool has_addr(void *subnets, const __u8 *addr)
{
	struct subnet subnet = {.prefix = 128};

	__builtin_memcpy(subnet.addr, addr, sizeof(subnet.addr));
	return bpf_map_lookup_elem(subnets, &subnet);
}

/* All but the owner, which may still be looked for. */
static __always_inline bool wanted_story(const struct event *event)
{
	const struct session_event *session = &event->session;
	const struct story *story = &event->story;

	if (config.min_us &&
	    (config.whole_life ? session->life_us : session->span_us) <
		    config.min_us)
		return false;
	if (session->tx_bytes + session->rx_bytes < config.min_bytes)
		return false;
	if (config.slower_us && (story->connect_us == (__u64)-1 ||
				 story->connect_us < config.slower_us))
		return false;
	if (config.dir && story->dir != config.dir)
		return false;
	if (config.ends && !(config.ends & 1U << (story->end & 31)))
		return false;
	if (config.filter_netns &&
	    !bpf_map_lookup_elem(&namespaces, &story->netns))
		return false;
	if (config.filter_laddr && !has_addr(&laddrs, session->laddr))
		return false;
	return !config.filter_raddr || has_addr(&raddrs, session->raddr);
}

#endif
