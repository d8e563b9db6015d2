"""Differential privacy as pure functions: noise, its calibration, and what releases add up to."""
