"""Examples in, prepared batches out: reading, splitting, decoding once, augmenting."""
