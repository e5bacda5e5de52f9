"""The rows of a table on GPUs: codes in chunks that grow, a budget of memory, and searches whose answers are exact all the same."""
