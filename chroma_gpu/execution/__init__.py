"""Chroma's place for its search expressions."""
