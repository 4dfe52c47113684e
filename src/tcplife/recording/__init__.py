"""Recordings: the kernel's records in a file, to be shown later and elsewhere.

docs/recording.md describes the format.
"""
