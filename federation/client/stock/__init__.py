"""A partner's side of training over Flower's own transport."""
