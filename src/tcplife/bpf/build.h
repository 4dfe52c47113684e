/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What an object is compiled for. All are constants in plain conditions: the
 * compiler drops what does not apply.
 */
#ifndef TCPLIFE_BUILD_H
#define TCPLIFE_BUILD_H

/* See tier.h. */
#ifndef TIER
#define TIER 1
#endif

/* Sends each session's whole story (story.h). */
#ifndef STORY
#define STORY 0
#endif

/* Adds up sessions, or changes of state, instead of sending each. */
#ifndef SUMMARY
#define SUMMARY 0
#endif

/* tcpstates, which follows changes of state; else tcplife. */
#ifndef STATES
#define STATES 0
#endif

#endif
