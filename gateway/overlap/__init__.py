"""Carries blinded batches from partner to partner, keeps the two indexes, and releases noisy tables."""
