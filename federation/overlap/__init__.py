"""The overlap protocol, values in and values out: normalise, hash to curve, blind, sign and check batches, add up."""
