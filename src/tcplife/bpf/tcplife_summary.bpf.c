// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tcplife.bpf.c that adds up sessions instead of telling each. */
#define STORY
#define SUMMARY
#include "tcplife.bpf.c"
