"""The partner's agent: its data, its own policy, its connection to the gateway and a record of every byte that left."""
