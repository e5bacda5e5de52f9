"""Search expressions: which records are looked at, how they are scored, and what is returned of them."""
