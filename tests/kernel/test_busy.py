"""Many more processes than processors: no change is lost, or told twice.

Since Linux 7, the kernel lets a task wait for its turn in the midst of a program, and
does not run that for others meanwhile; bpf/changes.h has what is done about it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from .changes import CsvFile, lives, path
from .tracer import PATIENCE, STATES, ours

WORKERS = 8 * (os.cpu_count() or 1)
SESSIONS = 100  # of each
CHANGES = 10 * SESSIONS + 2  # the listener's as well
# Forks them, tells of each its port and PID, and has them begin at once.
CROWD = """
import os, socket, sys
workers, sessions = map(int, sys.argv[1:])
go, begin = os.pipe()
for _ in range(workers):
    if os.fork():
        continue
    listener = socket.create_server(("127.0.0.1", 0))
    line = f"{listener.getsockname()[1]} {os.getpid()}\\n"
    os.write(1, line.encode())
    os.close(begin)
    os.read(go, 1)
    for number in range(sessions):
        client = socket.create_connection(listener.getsockname())
        server = listener.accept()[0]
        first, second = (client, server) if number % 2 else (server, client)
        first.close()
        second.close()
    os._exit(0)
sys.stdin.readline()
os.close(begin)
sys.exit(any(os.wait()[1] for _ in range(workers)))
"""


def test_each_change_once_and_the_right_owner(root: None, tmp_path: Path) -> None:
    with ExitStack() as stack:
        sessions = stack.enter_context(ours("--json"))
        output = stack.enter_context((tmp_path / "changes").open("wb"))
        states = stack.enter_context(ours("-s", "-t", stdout=output, tool=STATES))
        crowd = subprocess.Popen(
            [sys.executable, "-c", CROWD, str(WORKERS), str(SESSIONS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(crowd.kill)
        assert crowd.stdout
        lines = [crowd.stdout.readline().split() for _ in range(WORKERS)]
        workers = {int(port): int(pid) for port, pid in lines}
        crowd.communicate("\n", timeout=4 * PATIENCE)
        assert crowd.returncode == 0
        assert [tool.stop() for tool in (sessions, states)] == [0, 0]
    errors = sessions.errors + states.errors
    assert not [line for line in errors if "lost" in line or "drop" in line]

    owners: Counter[tuple[int, int | None]] = Counter()
    for rows in sessions.rows().values():
        for row in rows:
            owners.update(
                (port, row.pid) for port in {row.lport, row.rport} & {*workers}
            )
    assert owners == dict.fromkeys(workers.items(), 2 * SESSIONS)

    told: Counter[int] = Counter()
    wrong = []
    for life in lives(CsvFile(tmp_path / "changes").changes()):
        for port in {life[-1].lport, life[-1].rport} & {*workers}:
            told[port] += len(life)
            if not re.fullmatch(r"(CLOSE|LISTEN) [^?]* CLOSE", path(life)):
                wrong.append(life)
    assert not wrong
    assert told == dict.fromkeys(workers, CHANGES)
