"""Contracts for what surrounds a broker: signing requests, lending tokens, keeping budgets."""
