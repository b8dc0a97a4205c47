#!/usr/bin/env python3
#SBATCH --job-name single
#SBATCH --ntasks 3 --nodes 1
#SBATCH --export=NONE,MODE=fast
#SBATCH --time 10

import os, subprocess, sys

assert "SLURM_ARRAY_TASK_ID" not in os.environ
assert os.environ["SLURM_NTASKS"] == "3"
print("mode", os.environ["MODE"], "arguments", sys.argv[1:], flush=True)
for options in (["-n1", "-l", "--cpu-bind=cores"], ["--mem", "1G", "--ntasks", "1"], []):
    step = subprocess.run(["srun", *options, "echo", "step"])
    print("srun", step.returncode, flush=True)
