"""ORC, cut between stripes."""
