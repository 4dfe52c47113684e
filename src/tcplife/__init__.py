"""tcplife: the TCP sessions of a host, their owners, bytes and lifespans."""

__version__ = "0.1.0"
