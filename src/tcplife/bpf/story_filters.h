/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The filters that need a session's whole story. User space fills the maps and
 * sets their sizes before the programs are attached; they live as long as the
 * tool.
 */
#ifndef TCPLIFE_STORY_FILTERS_H
#define TCPLIFE_STORY_FILTERS_H

#include "cgroups.h"
#include "config.h"
#include "owner.h"
#include "session.h"

#if STORY

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

static __always_inline bool wanted_owner(const struct owner *owner,
					 const struct owner_more *more)
{
	if (!wanted_pid(owner->pid))
		return false;
	if (cfg()->filter_comm && !bpf_map_lookup_elem(&comms, owner->comm))
		return false;
	if (cfg()->filter_uid &&
	    (!owner->pid || !bpf_map_lookup_elem(&uids, &more->uid)))
		return false;
	return !cfg()->filter_cgroup ||
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
	const struct story *story = event->story;

	if (cfg()->min_us &&
	    (cfg()->whole_life ? session->life_us : session->span_us) <
		    cfg()->min_us)
		return false;
	if (session->tx_bytes + session->rx_bytes < cfg()->min_bytes)
		return false;
	if (cfg()->slower_us && (story->connect_us == (__u64)-1 ||
				 story->connect_us < cfg()->slower_us))
		return false;
	if (cfg()->dir && story->dir != cfg()->dir)
		return false;
	if (cfg()->ends && !(cfg()->ends & 1U << (story->end & 31)))
		return false;
	if (cfg()->filter_netns &&
	    !bpf_map_lookup_elem(&namespaces, &story->netns))
		return false;
	if (cfg()->filter_laddr && !has_addr(&laddrs, session->laddr))
		return false;
	return !cfg()->filter_raddr || has_addr(&raddrs, session->raddr);
}

#else

static __always_inline bool wanted_owner(const struct owner *owner,
					 const struct owner_more *more)
{
	return wanted_pid(owner->pid);
}

static __always_inline bool wanted_story(const struct event *event)
{
	return true;
}

#endif

#endif
