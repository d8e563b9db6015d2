"""A partner's side of joint training: what it approves, and what it trains."""
