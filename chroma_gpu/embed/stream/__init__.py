"""From texts to vectors: windows, batches, threads and devices."""
