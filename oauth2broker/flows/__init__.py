"""What a broker does: obtain, renew and revoke tokens."""
