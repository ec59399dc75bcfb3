"""Comparing methods on prompts: their replies on disk, what is measured of them, and how sure it is. See `evaluate`."""
