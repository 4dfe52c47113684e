// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* holders.bpf.c for tcplife_full.bpf.c. */
#define STORY 1
#include "holders.bpf.c"
