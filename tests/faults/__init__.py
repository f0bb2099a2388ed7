"""Faults that are really injected: processes killed, disks full, answers lost, forks under load."""
