// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tcpstates.bpf.c that adds up changes instead of sending each. */
#define SUMMARY 1
#include "tcpstates.bpf.c"
