"""`make storm`: the whole grid in a storm of seeded faults, and the truth about it afterwards."""
