"""Schema: which indexes a collection has by metadata key, and how its vectors are made."""
