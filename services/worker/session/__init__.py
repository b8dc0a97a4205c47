"""Sessions: a slot's child runs tasks of one stage one after another, without a round trip for each.

The worker sends tasks ahead and gets an answer as soon as each has ended. A token tells who has a task: see `tokens`.
"""
