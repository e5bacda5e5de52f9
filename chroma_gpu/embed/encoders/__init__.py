"""The models: where they come from, how they are loaded, one encoder for each kind."""
