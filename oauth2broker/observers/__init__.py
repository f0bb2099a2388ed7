"""Observers for what operators look at."""
