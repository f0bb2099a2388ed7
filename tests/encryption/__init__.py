"""Records encrypted at rest."""
