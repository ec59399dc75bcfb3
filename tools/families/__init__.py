"""Compares gates of different families on one model."""
