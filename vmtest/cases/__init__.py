"""Tests for guests only: of each tier, of --check, and of kernels that lack something.

They are told which tiers the guest must have by an environment variable, see
vmtest/steps.py.
"""
