"""What the tasks of a stage are made of, by `stages.tasks_from`; each module yields the next chunk of task inputs.

`input` and `resplit` cut objects into parts, `items` reads what a fan-out stage yields, `reduce` groups outputs into
levels. (`outputs`, after a barrier, is one statement: transitions.plan_outputs. `successes` come with each completion.)
"""
