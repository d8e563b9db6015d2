"""Servicers, and the one interceptor for identity and errors."""
