"""Consent states of people on the switchboard, by party and handle."""
