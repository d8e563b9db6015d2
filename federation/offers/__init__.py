"""What an offer is and who may get one. Pure: values in, values out."""
