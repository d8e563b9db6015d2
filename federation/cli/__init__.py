"""The commands of partners, marketing, compliance and auditors. Each is a thin client of the contract."""
