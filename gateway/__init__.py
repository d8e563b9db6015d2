"""The deployed gateway: the gates of identity, policy, budget and audit, and what passes through them."""
