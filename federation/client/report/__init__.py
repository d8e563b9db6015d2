"""What a partner's own data looks like before it joins, for its own people."""
