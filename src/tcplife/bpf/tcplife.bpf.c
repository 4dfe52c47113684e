// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Follows TCP sessions from their first state to CLOSE, and sends one record
 * for each that ends.
 *
 * Who is the owner? inet_sock_set_state runs for the task that acts on the
 * socket, or in a softirq that borrowed whatever task was on the CPU. The
 * two are told apart by sk_lock.owned: it is set while a task holds the
 * socket lock (net/core/sock.c, lock_sock_nested() and __release_sock()), and
 * softirqs leave a held socket alone, so a change made while it is set is made
 * by the current task.
 */
#include "session.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct control control = {};

/* Records on their way to user space; lives as long as the tool. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 * 1024 * 1024);
} events SEC(".maps");

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

static __always_inline bool acting(const struct sock *sk)
{
	return sk->sk_lock.owned;
}

static __always_inline bool has_flag(const struct sock *sk, int flag)
{
	return sk->__sk_common.skc_flags >> flag & 1;
}

static __always_inline void take_owner(struct session *session, __u8 certainty)
{
	struct task_struct *task = bpf_get_current_task_btf();

	/* A kernel thread that closes a file for a process is not its owner. */
	if (session->certainty != OWNER_UNKNOWN && task->flags & PF_KTHREAD)
		return;
	owner_from_task(&session->event.owner, task);
	session->certainty = certainty;
}

static __always_inline void send(struct session *session)
{
	struct session_event *event = &session->event;
	__u64 flags = BPF_RB_NO_WAKEUP;

	if (!wanted_pid(event))
		return;
	/* The reader comes by itself many times a second: wake it in need. */
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >= config.wake_bytes)
		flags = BPF_RB_FORCE_WAKEUP;
	if (bpf_ringbuf_output(&events, event, sizeof(*event), flags))
		__sync_fetch_and_add(&control.lost_events, 1);
}

/*
 * An ended session waits on its socket while somebody may still hold the
 * socket and it isn't sure who: the process that closes it is the owner.
 */
static __always_inline void park(struct session *session)
{
	session->phase = PHASE_PARKED;
	__sync_fetch_and_add(&control.parked, 1);
}

static __always_inline void resolve(struct session *session)
{
	__sync_fetch_and_add(&control.resolved, 1);
	send(session);
}

static __always_inline bool has_port(const __u64 *ports, __u16 port)
{
	return ports[port >> 6 & 1023] & 1ULL << (port & 63);
}

static __always_inline bool wanted_lport(__u16 port)
{
	return !config.filter_lport || has_port(control.local_ports, port);
}

static __always_inline bool wanted_rport(__u16 port)
{
	return !config.filter_rport || has_port(control.remote_ports, port);
}

static __always_inline void map_addr(__u8 *to, __u32 addr)
{
	__u32 *words = (__u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = addr;
}

static __always_inline bool is_mapped(const __u8 *addr)
{
	const __u32 *words = (const __u32 *)addr;

	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

#define copy_addr(to, from)                                                    \
	do {                                                                   \
		__u32 *words = (__u32 *)(to);                                  \
		words[0] = (from).in6_u.u6_addr32[0];                          \
		words[1] = (from).in6_u.u6_addr32[1];                          \
		words[2] = (from).in6_u.u6_addr32[2];                          \
		words[3] = (from).in6_u.u6_addr32[3];                          \
	} while (0)

static __always_inline void tell_addresses(struct session_event *event,
					   const struct sock *sk)
{
	if (sk->__sk_common.skc_family == AF_INET6 &&
	    bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		copy_addr(event->laddr, sk->__sk_common.skc_v6_rcv_saddr);
		copy_addr(event->raddr, sk->__sk_common.skc_v6_daddr);
	} else {
		map_addr(event->laddr, sk->__sk_common.skc_rcv_saddr);
		map_addr(event->raddr, sk->__sk_common.skc_daddr);
	}
}

/*
 * The application's bytes. The kernel's counters include our SYN and each FIN:
 * - bytes_acked takes in our SYN where the handshake's answer goes through
 *   tcp_ack(), so on the connecting side only; and our FIN once acknowledged.
 * - bytes_received takes in the peer's FIN, which tcp_fin() notes as SOCK_DONE.
 * (net/ipv4/tcp_input.c, tcp_snd_una_update() and tcp_rcv_nxt_update())
 */
static __always_inline void tell_bytes(struct session *session,
				       const struct sock *sk,
				       const struct tcp_sock *tp, int oldstate)
{
	struct session_event *event = &session->event;
	bool fin_sent = oldstate == BPF_TCP_FIN_WAIT1 ||
			oldstate == BPF_TCP_FIN_WAIT2 ||
			oldstate == BPF_TCP_CLOSING ||
			oldstate == BPF_TCP_LAST_ACK;

	event->tx_bytes = 0;
	event->rx_bytes = 0;
	if (!session->established)
		return;
	event->tx_bytes = tp->bytes_acked - session->active -
			  (fin_sent && tp->snd_una == tp->write_seq);
	event->rx_bytes = tp->bytes_received - has_flag(sk, SOCK_DONE);
}

static __always_inline void begin(struct sock *sk, bool active, __u64 now)
{
	struct session *session;

	session = bpf_sk_storage_get(&sessions, sk, NULL,
				     BPF_SK_STORAGE_GET_F_CREATE);
	if (!session) {
		__sync_fetch_and_add(&control.lost_sessions, 1);
		return;
	}
	session->event.first_ns = now;
	session->event.birth_ns = now;
	session->event.owner.pid = 0;
	session->phase = PHASE_OPEN;
	session->certainty = OWNER_UNKNOWN;
	session->active = active;
	session->established = false;
	if (acting(sk))
		take_owner(session, OWNER_ACTED);
}

/* connect(): the local port is not chosen yet, the remote one is known. */
static __always_inline void on_connect(struct sock *sk, __u64 now)
{
	struct session *session = bpf_sk_storage_get(&sessions, sk, NULL, 0);

	/* The socket's second life: the first may be parked. */
	if (session && unpark(session)) {
		take_owner(session, OWNER_ENDED);
		resolve(session);
	}
	if (session)
		session->phase = PHASE_NONE;
	if (wanted_rport(bpf_ntohs(sk->__sk_common.skc_dport)))
		begin(sk, true, now);
}

/*
 * A child of a listener: its local port is the listener's, the remote one is
 * not set yet (net/ipv4/inet_connection_sock.c, inet_csk_clone_lock()).
 */
static __always_inline void on_child(struct sock *sk, __u64 now)
{
	if (wanted_lport(sk->__sk_common.skc_num))
		begin(sk, false, now);
}

static __always_inline void on_established(struct sock *sk, int oldstate,
					   __u64 now)
{
	struct session *session = bpf_sk_storage_get(&sessions, sk, NULL, 0);

	if (!session || session->phase != PHASE_OPEN) {
		/* Tracing began within its handshake, or a filter said no. */
		if (!wanted_lport(sk->__sk_common.skc_num) ||
		    !wanted_rport(bpf_ntohs(sk->__sk_common.skc_dport)))
			return;
		begin(sk, oldstate == BPF_TCP_SYN_SENT, now);
		session = bpf_sk_storage_get(&sessions, sk, NULL, 0);
		if (!session)
			return;
	}
	session->established = true;
	session->event.birth_ns = now;
	if (acting(sk))
		take_owner(session, OWNER_ACTED);
}

/* One side closes: what the current task does here makes it the owner. */
static __always_inline void on_closing(struct sock *sk, int newstate)
{
	struct session *session;
	__u8 certainty;

	if (!acting(sk))
		return;
	session = bpf_sk_storage_get(&sessions, sk, NULL, 0);
	if (!session || session->phase != PHASE_OPEN ||
	    session->certainty == OWNER_ENDED)
		return;
	certainty = newstate == BPF_TCP_CLOSE_WAIT ? OWNER_ACTED : OWNER_ENDED;
	take_owner(session, certainty);
}

static __always_inline void on_close(struct sock *sk, int oldstate)
{
	struct session *session = bpf_sk_storage_get(&sessions, sk, NULL, 0);
	struct session_event *event;
	struct tcp_sock *tp;
	bool mapped;

	if (!session || session->phase != PHASE_OPEN)
		return;
	session->phase = PHASE_NONE;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;

	event = &session->event;
	/* tcp_set_state() has given skc_num back by now; inet_sport stays. */
	event->lport = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
	event->rport = bpf_ntohs(sk->__sk_common.skc_dport);
	if (!wanted_lport(event->lport) || !wanted_rport(event->rport))
		return;
	tell_addresses(event, sk);
	mapped = is_mapped(event->raddr);
	if ((config.family == 4 && !mapped) || (config.family == 6 && mapped))
		return;
	event->end_ns = bpf_ktime_get_ns();
	tell_bytes(session, sk, tp, oldstate);

	/*
	 * tcp_abort() (`ss -K`, bpf_sock_destroy()) acts on the socket of
	 * somebody else, and has set ECONNABORTED by now.
	 */
	if (session->certainty != OWNER_ENDED && acting(sk) &&
	    sk->sk_err != ECONNABORTED)
		take_owner(session, OWNER_ENDED);

	/*
	 * Once its last descriptor is closed (SOCK_DEAD), nobody is left to
	 * ask; before, the socket may have been passed on since the owner was
	 * noted.
	 */
	if (session->certainty == OWNER_ENDED ||
	    (session->certainty == OWNER_ACTED && has_flag(sk, SOCK_DEAD)))
		send(session);
	else
		park(session);
}

/*
 * A closed listener takes its queue along, in the closing task but with the
 * children's locks not owned (inet_csk_listen_stop()). Only a close() counts,
 * which has set sk_shutdown by now: tcp_abort() comes here, too.
 */
static __always_inline void on_listener_closed(struct sock *sk)
{
	__u64 task = bpf_get_current_pid_tgid();
	__u16 port = sk->__sk_common.skc_num;

	if (sk->sk_shutdown != SHUTDOWN_MASK)
		return;
	if (!bpf_map_update_elem(&closing_listeners, &task, &port, BPF_NOEXIST))
		__sync_fetch_and_add(&control.closing, 1);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int oldstate, int newstate)
{
	/* The tracepoint serves SCTP, DCCP and MPTCP sockets, too. */
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;

	switch (newstate) {
	case BPF_TCP_SYN_SENT:
		on_connect(sk, bpf_ktime_get_ns());
		break;
	case BPF_TCP_SYN_RECV:
		if (oldstate == BPF_TCP_LISTEN)
			on_child(sk, bpf_ktime_get_ns());
		break;
	case BPF_TCP_ESTABLISHED:
		on_established(sk, oldstate, bpf_ktime_get_ns());
		break;
	case BPF_TCP_FIN_WAIT1:
	case BPF_TCP_CLOSE_WAIT:
	case BPF_TCP_LAST_ACK:
		on_closing(sk, newstate);
		break;
	case BPF_TCP_CLOSE:
		if (oldstate == BPF_TCP_LISTEN)
			on_listener_closed(sk);
		else
			on_close(sk, oldstate);
		break;
	}
	return 0;
}

/* The socket's end: whoever closes its last descriptor is the owner. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroy_sock, struct sock *sk)
{
	struct session *session;
	__u16 *port = NULL;
	__u64 task;

	if (control.closing) {
		task = bpf_get_current_pid_tgid();
		port = bpf_map_lookup_elem(&closing_listeners, &task);
	}
	if (control.parked != control.resolved + control.walked) {
		session = bpf_sk_storage_get(&sessions, sk, NULL, 0);
		if (session && unpark(session)) {
			if (acting(sk) ||
			    (port && *port == session->event.lport))
				take_owner(session, OWNER_ENDED);
			resolve(session);
		}
	}
	/* The listener itself goes last (net/ipv4/tcp.c, __tcp_close()). */
	if (port && acting(sk)) {
		bpf_map_delete_elem(&closing_listeners, &task);
		__sync_fetch_and_add(&control.closing, -1);
	}
	return 0;
}
