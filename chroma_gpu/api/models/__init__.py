"""The objects that clients hand out; module names as in Chroma."""
