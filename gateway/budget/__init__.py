"""The gate that counts: what every release cost a person, and whether there is enough left for the next."""
