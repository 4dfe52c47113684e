/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's types, with only the fields that are read here. Offsets are
 * found when the program is loaded (CO-RE), so order and gaps mean nothing.
 *
 * For each type from which an access starts, libbpf goes through all of the
 * kernel's types, which takes it 2 ms at start-up: start from struct sock,
 * tcp_sock and task_struct, not from a pointer to something within them.
 */
#ifndef TCPLIFE_KERNEL_H
#define TCPLIFE_KERNEL_H

#include <linux/bpf.h>
#include <stdbool.h>

/* include/linux/socket.h, include/uapi/linux/in.h,
 * include/uapi/asm-generic/errno.h */
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define ECONNABORTED 103

/* include/net/sock.h: RCV_SHUTDOWN | SEND_SHUTDOWN; enum sock_flags, the first
 * two
 */
#define SHUTDOWN_MASK 3
#define SOCK_DEAD 0
#define SOCK_DONE 1

/* include/linux/sched.h */
#define PF_KTHREAD 0x00200000

#pragma clang attribute push(__attribute__((preserve_access_index)),           \
			     apply_to = record)

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__u16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
};

typedef struct {
	int owned;
} socket_lock_t;

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	__u16 sk_protocol;
	__u8 sk_shutdown;
	int sk_err;
};

struct socket {
	struct sock *sk;
};

struct inet_sock {
	__u16 inet_sport;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u64 bytes_acked;
	__u64 bytes_received;
	__u32 snd_una;
	__u32 write_seq;
};

struct task_struct {
	unsigned int flags;
	__u32 tgid;
	struct task_struct *group_leader;
	char comm[16];
};

struct file;
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct file *file;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct sock *sk;
	void *value;
};

#pragma clang attribute pop

#endif
