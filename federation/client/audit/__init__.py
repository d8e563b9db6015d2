"""Checks of the gateway's audit log, over the wire and from plain files."""
