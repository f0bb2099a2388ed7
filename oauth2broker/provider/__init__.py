"""Providers as data (descriptor) and, where data cannot say it, as code (strategy)."""
