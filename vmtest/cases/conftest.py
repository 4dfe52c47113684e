"""What the kernel tests share."""

from kernel.conftest import network, root

__all__ = ["network", "root"]
