"""Texts as tokens in flat arrays."""
