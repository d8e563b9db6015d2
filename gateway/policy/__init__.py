"""The policy gate: which version is in force, and every version that was."""
