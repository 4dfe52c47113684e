"""Recordings for the tools that people have: files and databases with typed columns."""
