"""Offers that a partner proposes, and those about its own customers that it receives."""
