// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tcplife.bpf.c that adds up sessions instead of sending each. */
#define STORY 1
#define SUMMARY 1
#include "tcplife.bpf.c"

/* Only so that this object's BTF has the enums that user space knows, too. */
struct enums {
	enum by by;
	enum dir dir;
	enum end end;
	enum first first;
	enum histogram histogram;
	enum limit limit;
	enum quantity quantity;
};

const struct enums *enums = NULL;
