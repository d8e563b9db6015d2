"""What the partner's customers agreed to: the file, imports, local changes, and what the gateway is told."""
