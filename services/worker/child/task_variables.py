"""The variables that differ from task to task of a stage: where a task is in its array."""


def task_variables(job_id: object, job_number: int, index: int, number: int, attempt: int) -> dict[str, object]:
    """Those of AWS Batch, Slurm, PBS, Grid Engine and LSF, and our own (task/array_jobs has the sources).

    As in Slurm, each task of an array has a job id of its own, and a restart count only once it was restarted. AWS
    Batch counts from 0.
    """
    variables: dict[str, object] = {
        "PIECEWORK_TASK_INDEX": index,
        "PIECEWORK_TASK_NUMBER": number,
        "PIECEWORK_ATTEMPT": attempt,
        "AWS_BATCH_JOB_ID": f"{job_id}:{index}",
        "AWS_BATCH_JOB_ATTEMPT": attempt,
        "AWS_BATCH_JOB_ARRAY_INDEX": index,
        "SLURM_JOB_ID": job_number + index,
        "SLURM_JOBID": job_number + index,
        "SLURM_ARRAY_TASK_ID": number,
        "PBS_JOBID": f"{job_number}[{number}].piecework",
        "PBS_ARRAY_INDEX": number,
        "PBS_ARRAYID": number,
        "SGE_TASK_ID": number,
        "LSB_JOBINDEX": number,
    }
    if attempt > 1:
        variables["SLURM_RESTART_COUNT"] = attempt - 1
    return variables
