"""What every party of an alliance may import: rules, mathematics, the wire contract and the partner's agent."""
