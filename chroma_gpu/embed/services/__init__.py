"""Embedding services: the one door to them, and one small class for each."""
