"""Judging texts: pure functions of replies, and what many of them show."""
