/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sessions that nobody has accepted end with their listener: in the task that
 * closes it, but with their own locks not owned
 * (net/ipv4/inet_connection_sock.c, inet_csk_listen_stop()). So it has to be
 * known which task is doing that.
 */
#ifndef TCPLIFE_LISTENERS_H
#define TCPLIFE_LISTENERS_H

#include "shared.h"
#include "socket.h"
#include "tier.h"

#include <bpf/bpf_endian.h>

/*
 * Tasks that are closing a listener: the port, by pid_tgid. An entry lives for
 * the length of one close(); one that is pushed out costs an owner, not a row.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u16);
} closing_listeners SEC(".maps");

/* Only a close() counts, which has set sk_shutdown by now: tcp_abort() comes
 * here, too. */
static __always_inline void on_listener_closed(struct sock *sk)
{
	struct tcp_sock *tp = as_tcp_sock(sk);
	__u64 task = bpf_get_current_pid_tgid();
	__u16 port;

	if (!tp || BITS(sk, sk_shutdown) != SHUTDOWN_MASK)
		return;
	port = bpf_ntohs(FIELD(tp, inet_conn.icsk_inet.inet_sport));
	if (!bpf_map_update_elem(&closing_listeners, &task, &port, BPF_NOEXIST))
		__sync_fetch_and_add(&cnt()->closing, 1);
}

/* Is the current task closing a listener on this port? */
static __always_inline bool closing_listener_on(__u16 lport)
{
	__u64 task = bpf_get_current_pid_tgid();
	__u16 *port;

	if (!cnt()->closing)
		return false;
	port = bpf_map_lookup_elem(&closing_listeners, &task);
	return port && *port == lport;
}

/* The listener itself goes last (net/ipv4/tcp.c, __tcp_close()). */
static __always_inline void on_listener_destroyed(const struct sock *sk)
{
	__u64 task;

	if (!cnt()->closing || !acting(sk))
		return;
	task = bpf_get_current_pid_tgid();
	if (!bpf_map_delete_elem(&closing_listeners, &task))
		__sync_fetch_and_add(&cnt()->closing, -1);
}

#endif
