"""How token requests reach a provider."""
