"""`python -m tcplife` is the command tcplife."""

from tcplife.cli.tcplife import main

raise SystemExit(main())
