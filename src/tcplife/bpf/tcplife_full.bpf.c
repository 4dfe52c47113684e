// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcplife.bpf.c that also sends each session's whole story, for those who ask
 * for it: nobody else pays for it, at the start or while tracing.
 */
#define STORY 1
#include "tcplife.bpf.c"
