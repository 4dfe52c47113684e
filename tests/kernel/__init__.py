"""Tests with a real kernel: root, real sockets, private network namespaces.

How they fit together:

netns      a pair of network namespaces joined by a veth pair
endpoint   the program that plays a client or a server, one order at a time
remote     has endpoints started in a namespace and gives them their orders
scenarios  the sessions, each with the rows that it must leave
tracer     runs a tool (ours or libbpf-tools') and collects its rows

Nothing waits for a fixed time: an order is answered when it is done, and a
tracer is read until the rows are there or a generous deadline has passed.

Needed: root, iproute2, nftables, util-linux (setpriv); libbpf-tools for test_peer.
Without root the tests are skipped, unless CI=true or TCPLIFE_KERNEL_TESTS=1
is set: then they fail.
"""
