"""How much grid one Postgres carries: the protocol's load of thousands of workers on it, without the workers.

Real are Postgres, all SQL, all loops of the scheduler, the roll-up, and what of a worker talks to the database: its
receiver, completer and heartbeat. Replaced are SQS, by a queue in memory, and the running of a task, by a timer.
"""
