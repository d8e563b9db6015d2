"""Offers on their way from a proposer to a recipient's inbox."""
