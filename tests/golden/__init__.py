"""Recordings, and what each format makes of them, to the byte."""
