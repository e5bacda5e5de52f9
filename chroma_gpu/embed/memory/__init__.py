"""Vectors of texts that were embedded before."""
