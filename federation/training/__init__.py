"""Joint training: features, models, per-customer DP-SGD, its accountant, and the Flower strategy and client app."""
