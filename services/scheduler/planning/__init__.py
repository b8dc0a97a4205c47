"""The inputs of a stage's tasks, by `stages.tasks_from`: each module yields the next chunk of task inputs.

`input` and `resplit` cut objects into parts, `items` reads what a fan-out stage yields, `reduce` groups outputs into
levels, `outputs` gives each output to a task of its own. (`successes` come with each completion.)

READY is the SQL that finds the stages whose next chunk can be planned now: at most $2, those that were put off less
than $1 seconds ago left out, and those that have enough ready tasks ($3: `ready_tasks_max`). A plan's cursor
(`plan_cursor`) is known to its own module only.
"""
