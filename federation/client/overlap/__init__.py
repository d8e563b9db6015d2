"""A partner's side of the overlap: its own batches, the others', deltas and withdrawals."""
