"""Where Chroma's users import things from."""
