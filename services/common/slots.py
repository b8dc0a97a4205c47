"""How many slots a pool has, for those who cut work for it."""

# Of the pool that `s.pool` names: those at work now, or those of a full pool if it may grow.
POOL_SLOTS = """(
    SELECT greatest(p.slots * greatest(p.capacity_max, 1),
        (SELECT sum(w.slots) FROM workers AS w WHERE w.pool = p.name AND w.state = 'active'))
    FROM pools AS p WHERE p.name = s.pool)"""
