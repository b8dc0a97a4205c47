#!/usr/bin/env python3
#SBATCH --job-name single
#SBATCH --ntasks 3 --nodes 1
#SBATCH --export=NONE,MODE=fast
#SBATCH --time 10

import os, subprocess, sys

assert "SLURM_ARRAY_TASK_ID" not in os.environ
assert os.environ["SLURM_NTASKS"] == "3"
print("mode", os.environ["MODE"], "arguments", sys.argv[1:])
sys.stdout.flush()
subprocess.run(["srun", "-l", "--cpu-bind=cores", "sh", "-c", 'echo "rank $SLURM_PROCID of $SLURM_NTASKS" > rank$SLURM_PROCID'], check=True)
