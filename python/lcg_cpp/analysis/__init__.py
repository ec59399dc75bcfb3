"""Confusion points of a model on given texts, counted and shown. `analyze` puts it together."""
