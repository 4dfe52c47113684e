/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which ports are wanted. */
#ifndef TCPLIFE_PORTS_H
#define TCPLIFE_PORTS_H

#include "config.h"
#include "shared.h"

static __always_inline bool has_port(const __u64 *ports, __u16 port)
{
	return ports[port >> 6 & 1023] & 1ULL << (port & 63);
}

static __always_inline bool wanted_lport(__u16 port)
{
	return !cfg()->filter_lport || has_port(ctl()->lport_bits, port);
}

static __always_inline bool wanted_rport(__u16 port)
{
	return !cfg()->filter_rport || has_port(ctl()->rport_bits, port);
}

#endif
