"""The kernel tests of this checkout, on other kernels, under QEMU: see README.md."""
