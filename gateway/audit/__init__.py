"""The gate that remembers: an append-only log which shows any change to itself."""
