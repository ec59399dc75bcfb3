"""Real models: getting them, training gates for them, measuring, and what docs/real-models.md holds."""
