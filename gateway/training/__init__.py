"""Joint training at the gateway: the hub of connected partners, Flower's grid over it, runs, and what they release."""
