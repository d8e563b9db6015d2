"""The first gate: who is calling. Enrolment, revocation, and what each role may call."""
