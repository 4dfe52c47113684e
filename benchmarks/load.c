// SPDX-License-Identifier: Apache-2.0
/*
 * A known load: one client and one server process on loopback, one TCP session
 * after another. The client connects and sends 100 bytes, the server replies
 * with 200, the client closes, the server sees the end and closes: 2 sessions
 * for tcplife (one an end), 10 state changes for tcpstates.
 *
 * Prints one line when it is done:
 *	sessions=N seconds=S sessions_per_s=R port=P
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_BYTES 100
#define REPLY_BYTES 200
#define NSEC_PER_SEC 1000000000LL
#define MAX_SESSIONS 100000000LL
#define MAX_SECONDS 3600.0
#define GRACE_SECONDS 30 /* then SIGALRM ends a load that hangs */

/*
 * The client's side of each session stays in TIME_WAIT for a minute, and one
 * destination has some 28,000 ephemeral ports: take many destinations in turn.
 * Together they have room for more than net.ipv4.tcp_max_tw_buckets.
 */
#define DESTINATIONS 200
#define MAX_DESTINATIONS 1000000

struct options {
	int64_t sessions; /* 0: until the time is over */
	double seconds;	  /* 0: until the sessions are done */
	double rate;	  /* sessions a second; 0: flat out */
	uint16_t port;	  /* 0: the kernel picks one */
	uint32_t destinations;
};

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static void sleep_until(int64_t ns)
{
	struct timespec ts = {
		.tv_sec = ns / NSEC_PER_SEC,
		.tv_nsec = ns % NSEC_PER_SEC,
	};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) ==
	       EINTR)
		;
}

static int listen_on(uint16_t port, uint16_t *bound)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_ANY),
	};
	socklen_t len = sizeof(addr);
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		err(1, "socket");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
		err(1, "SO_REUSEADDR");
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)))
		err(1, "bind to port %u", port);
	if (listen(fd, 128))
		err(1, "listen");
	if (getsockname(fd, (struct sockaddr *)&addr, &len))
		err(1, "getsockname");
	*bound = ntohs(addr.sin_port);
	return fd;
}

/* Runs until the client shuts the listening socket down: EINVAL from accept. */
static void serve(int listener)
{
	char buf[REPLY_BYTES] = {0};
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		if (recv(fd, buf, REQUEST_BYTES, MSG_WAITALL) != REQUEST_BYTES)
			errx(1, "server: short request");
		if (send(fd, buf, REPLY_BYTES, MSG_NOSIGNAL) != REPLY_BYTES)
			err(1, "server: send");
		if (recv(fd, buf, 1, 0) != 0)
			errx(1, "server: data after the request");
		close(fd);
	}
	if (errno != EINVAL)
		err(1, "accept");
}

static void one_session(struct sockaddr_in *addr)
{
	char buf[REPLY_BYTES] = {0};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		err(1, "socket");
	if (connect(fd, (struct sockaddr *)addr, sizeof(*addr)))
		err(1, "connect");
	if (send(fd, buf, REQUEST_BYTES, MSG_NOSIGNAL) != REQUEST_BYTES)
		err(1, "client: send");
	if (recv(fd, buf, REPLY_BYTES, MSG_WAITALL) != REPLY_BYTES)
		errx(1, "client: short reply");
	close(fd);
}

/* Returns how many sessions it made. */
static int64_t drive(const struct options *opt, uint16_t port, int64_t start)
{
	int64_t limit = opt->sessions ? opt->sessions : MAX_SESSIONS;
	double seconds = opt->seconds ? opt->seconds : MAX_SECONDS;
	double interval = opt->rate ? NSEC_PER_SEC / opt->rate : 0;
	int64_t end = start + (int64_t)(seconds * NSEC_PER_SEC);
	uint32_t host;
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
	};
	int64_t i;

	for (i = 0; i < limit; i++) {
		if (opt->rate)
			sleep_until(start + (int64_t)(i * interval));
		if (now_ns() >= end)
			break;
		host = INADDR_LOOPBACK + i % opt->destinations;
		addr.sin_addr.s_addr = htonl(host);
		one_session(&addr);
	}
	return i;
}

static pid_t start_server(int listener)
{
	pid_t parent = getpid();
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) /* it died before the prctl */
		_exit(1);
	serve(listener);
	_exit(0);
}

/* PR_SET_PDEATHSIG covers the parent only; a child that fails ends us so. */
static void on_child(int sig)
{
	int status;

	(void)sig;
	if (waitpid(-1, &status, WNOHANG) > 0)
		_exit(2);
}

static void finish(int listener, pid_t server)
{
	int status;

	signal(SIGCHLD, SIG_DFL);
	shutdown(listener, SHUT_RDWR);
	if (waitpid(server, &status, 0) != server || status)
		errx(1, "the server failed");
}

static double number(const char *text, double max)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= 0 && value <= max))
		errx(2, "not a number from 0 to %.0f: %s", max, text);
	return value;
}

static struct options parse(int argc, char **argv)
{
	struct options opt = {.destinations = DESTINATIONS};
	int c;

	while ((c = getopt(argc, argv, "n:s:r:l:d:")) != -1) {
		switch (c) {
		case 'n':
			opt.sessions = number(optarg, MAX_SESSIONS);
			break;
		case 's':
			opt.seconds = number(optarg, MAX_SECONDS);
			break;
		case 'r':
			opt.rate = number(optarg, 1e6);
			break;
		case 'l':
			opt.port = number(optarg, UINT16_MAX);
			break;
		case 'd':
			opt.destinations = number(optarg, MAX_DESTINATIONS);
			break;
		default:
			goto usage;
		}
	}
	if (optind == argc && (opt.sessions || opt.seconds) && opt.destinations)
		return opt;
usage:
	fprintf(stderr, "usage: load {-n SESSIONS | -s SECONDS} [-r RATE] [-l "
			"PORT] [-d N]\n"
			"  -n  stop after so many sessions\n"
			"  -s  stop after so many seconds\n"
			"  -r  sessions a second; 0, the default, is flat out\n"
			"  -l  the server's port; 0, the default, picks one\n"
			"  -d  destinations, in 127/8\n");
	exit(2);
}

int main(int argc, char **argv)
{
	struct options opt = parse(argc, argv);
	int64_t start, done;
	double seconds;
	uint16_t port;
	pid_t server;
	int listener;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm((opt.seconds ? opt.seconds : MAX_SECONDS) + GRACE_SECONDS);
	signal(SIGCHLD, on_child);
	listener = listen_on(opt.port, &port);
	server = start_server(listener);

	start = now_ns();
	done = drive(&opt, port, start);
	seconds = (now_ns() - start) / (double)NSEC_PER_SEC;

	finish(listener, server);
	printf("sessions=%lld seconds=%.6f sessions_per_s=%.1f port=%u\n",
	       (long long)done, seconds, done / seconds, port);
	return 0;
}
