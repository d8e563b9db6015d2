"""Joint training over Flower's own transport: a stock SuperLink with the same apps."""
