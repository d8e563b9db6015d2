"""Plots of what was released: for the report's page, and as files. Only these modules need matplotlib."""
