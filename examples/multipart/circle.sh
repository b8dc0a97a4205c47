#!/bin/bash
#SBATCH --job-name=circle
#SBATCH --array=0-23
#SBATCH --time=00:10:00
#
# Gauss's circle problem: how many points with whole coordinates lie in a circle? Each task of the Slurm array counts
# those of its share of the rows.
#
#     sbatch circle.sh RADIUS OUTPUT
set -euo pipefail

radius=$1 output=$2
rows=$((2 * radius + 1))
first=$((rows * (SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN) / SLURM_ARRAY_TASK_COUNT - radius))
last=$((rows * (SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1) / SLURM_ARRAY_TASK_COUNT - radius))

awk -v radius="$radius" -v first="$first" -v last="$last" '
    BEGIN {
        for (y = first; y < last; y++) {
            x = int(sqrt(radius * radius - y * y))
            while (x * x + y * y > radius * radius) x--
            while ((x + 1) * (x + 1) + y * y <= radius * radius) x++
            points += 2 * x + 1
        }
        printf "%d %d %.0f\n", first, last, points
    }' > "$output"
echo "task $SLURM_ARRAY_TASK_ID of job $SLURM_ARRAY_JOB_ID: rows $first to $((last - 1))"
