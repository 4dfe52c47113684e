"""Tests of all that needs neither root nor BPF.

records    sessions, and the kernel's framed records of them
conftest   shows sessions as the command would

What stands in for the kernel, the clock or libbpf is named Fake...
"""
