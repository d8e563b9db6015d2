"""The rule language: what compliance writes, how it is compiled, and what it decides. Pure: values in, values out."""
