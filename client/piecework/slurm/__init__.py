"""Slurm's batch scripts as jobs: `script` reads one, `job` makes a job of it; `task` and `srun` go to the node."""
