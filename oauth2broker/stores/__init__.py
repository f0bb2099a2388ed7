"""Where records are kept: one backend, one file."""
