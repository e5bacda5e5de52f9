"""Filters on the device where the vectors are: hot columns of metadata there, conditions as one pass over them, masks that stay there."""
