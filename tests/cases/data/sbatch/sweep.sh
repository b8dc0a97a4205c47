#!/bin/bash -l
#SBATCH --job-name="seed sweep"       # shown in the queue
#SBATCH -A grp_stats -p batch,long    # account and partition
#SBATCH --array=1-9:2%4
#SBATCH --time=0-00:05
#SBATCH --mem=512M
#SBATCH -c 2
#SBATCH --output=logs/%x-%A_%2a.out
#SBATCH --error=logs/%x-%A_%2a.err
#SBATCH --mail-type=END,FAIL
##SBATCH --gres=gpu:1

set -euo pipefail
#SBATCH --nodes=9
module load R/4.4.0
cd "$SLURM_SUBMIT_DIR"
mkdir -p results
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
echo "Job $SLURM_JOB_ID is task $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_JOB_ID on $(hostname -s)"
srun echo "seed $((42 + SLURM_ARRAY_TASK_ID)) threads $OMP_NUM_THREADS $*" > "results/seed_${SLURM_ARRAY_TASK_ID}.txt"
echo "warned" >&2
