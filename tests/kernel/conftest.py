"""The gate (root only) and what the kernel tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from . import netns


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    if os.geteuid() == 0:
        return
    reason = "kernel tests need root: run them with sudo"
    if os.environ.get("CI") == "true" or os.environ.get("TCPLIFE_KERNEL_TESTS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def network(root: None) -> Iterator[netns.Network]:
    with netns.network() as pair:
        yield pair


@pytest.fixture
def crowded(root: None) -> Iterator[netns.Network]:
    """For tests of very many sessions.

    Where TIME_WAIT has no more room (net.ipv4.tcp_max_tw_buckets), other sessions end
    in another way.
    """
    with netns.network("crowd-") as pair:
        yield pair
