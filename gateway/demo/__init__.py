"""The demonstration: one gateway and three partners on one machine, and a report of what they did."""
