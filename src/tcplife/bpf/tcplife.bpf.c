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

/* Shared with user space while running, through the mapped .bss. */
struct control {
	__u64 lost_events;   /* ended, but the ring buffer was full */
	__u64 lost_sessions; /* began, but there was no memory to follow it */
	__u64 parked;	     /* sessions parked so far */
	__u64 resolved;	     /* of these, given their owner here */
	__u64 walked;	     /* of these, given their owner by holders.bpf.c */
	__u64 closing;	     /* tasks that are closing a listener */
	__u64 full_ns;	     /* when there was no more room in open_sessions */
	__u64 local_ports[1024]; /* a bit a port */
	__u64 remote_ports[1024];
};

struct control control = {};

/* What is kept of a session while it lives. */
struct session {
	__u64 first_ns; /* the first state seen */
	__u64 birth_ns; /* the last early one */
	struct owner owner;
	__u8 certainty;
	__u8 active; /* opened by connect() */
	__u8 established;
	__u8 unused;
};

/*
 * By the socket's address, from the first state to CLOSE. Made in advance: to
 * enter a session and take it out costs a third of what it does with the
 * socket's own storage, which is for those that have no room here.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct session);
} open_sessions SEC(".maps");

/* How long to leave a full open_sessions alone. */
#define FULL_PAUSE_NS 10000000

/*
 * Lives and dies with the socket; its only limit is the socket's own option
 * memory (net.core.optmem_max, 20 KiB or more).
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct session);
} more_sessions SEC(".maps");

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

/* The change that was last seen on this processor. */
struct change {
	__u64 sk;
	__u64 newstate;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct change);
} last_changes SEC(".maps");

static __always_inline bool acting(const struct sock *sk)
{
	return sk->sk_lock.owned;
}

static __always_inline bool has_flag(const struct sock *sk, int flag)
{
	return sk->__sk_common.skc_flags >> flag & 1;
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

static __always_inline struct session *find(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct session *session;

	session = bpf_map_lookup_elem(&open_sessions, &key);
	if (session)
		return session;
	return bpf_sk_storage_get(&more_sessions, sk, NULL, 0);
}

static __always_inline void forget(struct sock *sk)
{
	__u64 key = (__u64)sk;

	if (bpf_map_delete_elem(&open_sessions, &key))
		bpf_sk_storage_delete(&more_sessions, sk);
}

static __always_inline void keep(struct sock *sk, struct session *session)
{
	__u64 now = session->birth_ns;
	__u64 key = (__u64)sk;

	if (now - control.full_ns > FULL_PAUSE_NS) {
		if (!bpf_map_update_elem(&open_sessions, &key, session,
					 BPF_ANY))
			return;
		control.full_ns = now;
	}
	if (!bpf_sk_storage_get(&more_sessions, sk, session,
				BPF_SK_STORAGE_GET_F_CREATE))
		__sync_fetch_and_add(&control.lost_sessions, 1);
}

/* The current task as a session's owner; says how sure that is. */
static __always_inline __u8 take_owner(struct owner *owner, __u8 certainty,
				       __u8 as)
{
	struct task_struct *task = bpf_get_current_task_btf();

	/* A kernel thread that closes a file for a process is not its owner. */
	if (certainty != OWNER_UNKNOWN && task->flags & PF_KTHREAD)
		return certainty;
	/* Its name may have changed by the end, but hardly by the next state.
	 */
	if (as != OWNER_ACTED || certainty == OWNER_UNKNOWN ||
	    owner->pid != task->tgid)
		owner_from_task(owner, task);
	return as;
}

static __always_inline struct session_event *reserve(const struct owner *owner)
{
	struct session_event *event;

	if (!wanted_pid(owner->pid))
		return NULL;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		__sync_fetch_and_add(&control.lost_events, 1);
	return event;
}

static __always_inline void submit(struct session_event *event)
{
	__u64 flags = BPF_RB_NO_WAKEUP;

	/* The reader comes by itself many times a second: wake it in need. */
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >= config.wake_bytes)
		flags = BPF_RB_FORCE_WAKEUP;
	bpf_ringbuf_submit(event, flags);
}

static __always_inline bool any_parked(void)
{
	return control.parked != control.resolved + control.walked;
}

/*
 * Sends what is parked with a socket. Its owner is the current task, if that
 * acts on the socket, or is closing the listener (on `port`) that has it in its
 * queue.
 */
static __always_inline void resolve(struct sock *sk, bool by_task,
				    const __u16 *port)
{
	struct parked *it = bpf_sk_storage_get(&parked, sk, NULL, 0);
	struct session_event *event;

	if (!it || !unpark(it))
		return;
	if (by_task || (port && *port == it->event.lport))
		take_owner(&it->event.owner, it->certainty, OWNER_ENDED);
	event = reserve(&it->event.owner);
	if (event) {
		*event = it->event;
		submit(event);
	}
	__sync_fetch_and_add(&control.resolved, 1);
}

#define copy_addr(to, from)                                                    \
	do {                                                                   \
		__u32 *words = (__u32 *)(to);                                  \
		words[0] = (from).in6_u.u6_addr32[0];                          \
		words[1] = (from).in6_u.u6_addr32[1];                          \
		words[2] = (from).in6_u.u6_addr32[2];                          \
		words[3] = (from).in6_u.u6_addr32[3];                          \
	} while (0)

static __always_inline void map_addr(__u8 *to, __u32 addr)
{
	__u32 *words = (__u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = addr;
}

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

/* IPv4 through an IPv6 socket is IPv4. */
static __always_inline bool wanted_family(const struct sock *sk)
{
	bool four = sk->__sk_common.skc_family == AF_INET;

	if (!config.family)
		return true;
	if (!four && bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
		four = !sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[0] &&
		       !sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[1] &&
		       sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[2] ==
			       bpf_htonl(0xffff);
	return config.family == (four ? 4 : 6);
}

/*
 * The application's bytes. The kernel's counters include our SYN and each FIN:
 * - bytes_acked takes in our SYN where the handshake's answer goes through
 *   tcp_ack(), so on the connecting side only; and our FIN once acknowledged.
 * - bytes_received takes in the peer's FIN, which tcp_fin() notes as SOCK_DONE.
 * (net/ipv4/tcp_input.c, tcp_snd_una_update() and tcp_rcv_nxt_update())
 */
static __always_inline void tell_bytes(struct session_event *event,
				       const struct session *session,
				       const struct sock *sk,
				       const struct tcp_sock *tp, int oldstate)
{
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

static __always_inline void tell(struct session_event *event,
				 const struct session *session,
				 const struct sock *sk,
				 const struct tcp_sock *tp, int oldstate)
{
	__u64 now = bpf_ktime_get_ns();

	event->end_ns = now;
	event->life_ns = now - session->first_ns;
	event->span_ns = now - session->birth_ns;
	event->owner = session->owner;
	/* tcp_set_state() has given skc_num back by now; inet_sport stays. */
	event->lport = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
	event->rport = bpf_ntohs(sk->__sk_common.skc_dport);
	tell_addresses(event, sk);
	tell_bytes(event, session, sk, tp, oldstate);
}

static __always_inline void send(const struct session *session,
				 const struct sock *sk,
				 const struct tcp_sock *tp, int oldstate)
{
	struct session_event *event = reserve(&session->owner);

	if (!event)
		return;
	tell(event, session, sk, tp, oldstate);
	submit(event);
}

static __always_inline bool park(const struct session *session, struct sock *sk,
				 const struct tcp_sock *tp, int oldstate)
{
	struct parked *it;

	it = bpf_sk_storage_get(&parked, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!it)
		return false;
	tell(&it->event, session, sk, tp, oldstate);
	it->certainty = session->certainty;
	it->waiting = 1;
	__sync_fetch_and_add(&control.parked, 1);
	return true;
}

static __always_inline void begin(struct sock *sk, bool active,
				  bool established, bool by_task)
{
	__u64 now = bpf_ktime_get_ns();
	struct session session = {
		.first_ns = now,
		.birth_ns = now,
		.active = active,
		.established = established,
	};

	if (by_task)
		session.certainty =
			take_owner(&session.owner, OWNER_UNKNOWN, OWNER_ACTED);
	keep(sk, &session);
}

/* connect(): the local port is not chosen yet, the remote one is known. */
static __always_inline void on_connect(struct sock *sk, bool by_task)
{
	/* The socket's second life: the first may be parked. */
	if (any_parked())
		resolve(sk, by_task, NULL);
	if (wanted_rport(bpf_ntohs(sk->__sk_common.skc_dport)))
		begin(sk, true, false, by_task);
}

/*
 * A child of a listener: its local port is the listener's, the remote one is
 * not set yet (net/ipv4/inet_connection_sock.c, inet_csk_clone_lock()).
 */
static __always_inline void on_child(struct sock *sk)
{
	if (wanted_lport(sk->__sk_common.skc_num))
		begin(sk, false, false, false);
}

static __always_inline void on_established(struct sock *sk, int oldstate,
					   bool by_task)
{
	struct session *session = find(sk);

	if (session) {
		session->established = true;
		session->birth_ns = bpf_ktime_get_ns();
		if (by_task)
			session->certainty =
				take_owner(&session->owner, session->certainty,
					   OWNER_ACTED);
	} else if (wanted_lport(sk->__sk_common.skc_num) &&
		   wanted_rport(bpf_ntohs(sk->__sk_common.skc_dport))) {
		/* Tracing began within its handshake. */
		begin(sk, oldstate == BPF_TCP_SYN_SENT, true, by_task);
	}
}

/* One side closes: what the current task does here makes it the owner. */
static __always_inline void on_closing(struct sock *sk, int newstate)
{
	__u8 as = newstate == BPF_TCP_CLOSE_WAIT ? OWNER_ACTED : OWNER_ENDED;
	struct session *session;

	session = find(sk);
	if (session && session->certainty != OWNER_ENDED)
		session->certainty =
			take_owner(&session->owner, session->certainty, as);
}

static __always_inline void on_close(struct sock *sk, int oldstate,
				     bool by_task)
{
	struct session *session = find(sk);
	struct tcp_sock *tp;

	if (!session)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp && wanted_family(sk) &&
	    wanted_lport(bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport)) &&
	    wanted_rport(bpf_ntohs(sk->__sk_common.skc_dport))) {
		/*
		 * tcp_abort() (`ss -K`, bpf_sock_destroy()) acts on the socket
		 * of somebody else, and has set ECONNABORTED by now.
		 */
		if (session->certainty != OWNER_ENDED && by_task &&
		    sk->sk_err != ECONNABORTED)
			session->certainty =
				take_owner(&session->owner, session->certainty,
					   OWNER_ENDED);
		/*
		 * Once its last descriptor is closed (SOCK_DEAD), nobody is
		 * left to ask; before, the socket may have been passed on since
		 * the owner was noted.
		 */
		if (session->certainty == OWNER_ENDED ||
		    (session->certainty == OWNER_ACTED &&
		     has_flag(sk, SOCK_DEAD)) ||
		    !park(session, sk, tp, oldstate))
			send(session, sk, tp, oldstate);
	}
	forget(sk);
}

/*
 * A closed listener takes its queue along, in the closing task but with the
 * children's locks not owned (inet_csk_listen_stop()). Only a close() counts,
 * which has set sk_shutdown by now: tcp_abort() comes here, too.
 */
static __always_inline void on_listener_closed(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 task = bpf_get_current_pid_tgid();
	__u16 port;

	if (!tp || sk->sk_shutdown != SHUTDOWN_MASK)
		return;
	port = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
	if (!bpf_map_update_elem(&closing_listeners, &task, &port, BPF_NOEXIST))
		__sync_fetch_and_add(&control.closing, 1);
}

/* by_task: the current task makes the change. */
static __always_inline void on_change(struct sock *sk, int oldstate,
				      int newstate, bool by_task)
{
	switch (newstate) {
	case BPF_TCP_SYN_SENT:
		on_connect(sk, by_task);
		break;
	case BPF_TCP_SYN_RECV:
		if (oldstate == BPF_TCP_LISTEN)
			on_child(sk);
		break;
	case BPF_TCP_ESTABLISHED:
		on_established(sk, oldstate, by_task);
		break;
	case BPF_TCP_FIN_WAIT1:
	case BPF_TCP_CLOSE_WAIT:
	case BPF_TCP_LAST_ACK:
		if (by_task)
			on_closing(sk, newstate);
		break;
	case BPF_TCP_CLOSE:
		if (oldstate != BPF_TCP_LISTEN)
			on_close(sk, oldstate, by_task);
		else if (by_task)
			on_listener_closed(sk);
		break;
	}
}

static __always_inline struct change *last_change(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&last_changes, &key);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int oldstate, int newstate)
{
	struct change *last = last_change();

	/* The tracepoint serves SCTP, DCCP and MPTCP sockets, too. */
	if (sk->sk_protocol != IPPROTO_TCP || !last)
		return 0;
	last->sk = (__u64)sk;
	last->newstate = newstate;
	on_change(sk, oldstate, newstate, acting(sk));
	return 0;
}

/*
 * A program isn't run while it runs already on the same processor
 * (kernel/trace/bpf_trace.c, __bpf_trace_run()). An interrupt in the program
 * above may bring a batch of packets, and with them hundreds of changes that
 * it is not run for: those are for this one. They are made by softirqs, never
 * by a task; and what interrupts this one is seen above.
 */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(interrupted, struct sock *sk, int oldstate, int newstate)
{
	struct change *last = last_change();

	if (sk->sk_protocol == IPPROTO_TCP && !acting(sk) && last &&
	    (last->sk != (__u64)sk || last->newstate != (__u64)newstate))
		on_change(sk, oldstate, newstate, false);
	return 0;
}

/* The socket's end: whoever closes its last descriptor is the owner. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroy_sock, struct sock *sk)
{
	__u16 *port = NULL;
	__u64 task = 0;

	if (control.closing) {
		task = bpf_get_current_pid_tgid();
		port = bpf_map_lookup_elem(&closing_listeners, &task);
	}
	if (any_parked())
		resolve(sk, acting(sk), port);
	/* The listener itself goes last (net/ipv4/tcp.c, __tcp_close()). */
	if (port && acting(sk)) {
		bpf_map_delete_elem(&closing_listeners, &task);
		__sync_fetch_and_add(&control.closing, -1);
	}
	return 0;
}
