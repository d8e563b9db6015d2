"""Small things that everything stands on: identifiers, errors, clock, canonical encoding, identity, durable state."""
