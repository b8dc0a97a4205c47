-- What the largest node that a pool may have has for tasks, as its operator says (cpus, memory, gpus, disk); null: nobody
-- has said, and only nodes that were seen are known.
ALTER TABLE pools ADD COLUMN largest_node jsonb;
