"""Tests for guests only: of each tier, of --check, and of kernels that lack something.

They are told of the guest by the environment variables of vmtest/steps.py.
"""
