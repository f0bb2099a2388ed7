"""Stores on real engines: servers that the tests start, kill, restart and cut off themselves."""
