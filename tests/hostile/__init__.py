"""Hostile inputs: each module has a list CASES, which tests/test_hostile.py and `make real` run one by one."""
