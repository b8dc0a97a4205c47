"""The variables in which programs written for array jobs of other schedulers look for their place.

AWS Batch: https://docs.aws.amazon.com/batch/latest/userguide/job_env_vars.html
Slurm: https://slurm.schedmd.com/sbatch.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES
PBS: https://help.altair.com/2022.1.0/PBS%20Professional/PBSUserGuide2022.1.pdf, PBS environment variables
Grid Engine: https://gridscheduler.sourceforge.net/htmlman/htmlman1/qsub.html, ENVIRONMENTAL VARIABLES
LSF: https://www.ibm.com/docs/en/spectrum-lsf/10.1.0?topic=variables-environment-set-job-execution
"""

import hashlib
import socket
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from services.engine.attempt import ClaimedTask, StageWork
from services.worker.child.task_variables import task_variables

Variables = dict[str, object]

_DIRECTORIES = ("SLURM_SUBMIT_DIR", "PBS_O_WORKDIR", "PBS_JOBDIR", "SGE_O_WORKDIR", "LS_SUBCWD")

# The launchers of MPI see the variables of a scheduler and would ask it for nodes and slots: there is the node alone.
_LAUNCHERS = {
    **dict.fromkeys(("OMPI_MCA_ras", "OMPI_MCA_plm"), "^slurm,tm,lsf"),  # Open MPI up to 4
    **dict.fromkeys(("PRTE_MCA_ras", "PRTE_MCA_plm"), "^slurm,pbs,lsf"),  # Open MPI from 5 on
    **dict.fromkeys(("HYDRA_BOOTSTRAP", "I_MPI_HYDRA_BOOTSTRAP"), "fork"),  # MPICH, Intel MPI
}

# Numbers of jobs fit into 31 bits, as programs expect that seed a generator with them; so does that of the last task.
_NUMBER_MIN, _NUMBER_MAX = 1_000_000, 2**31 - 1 - 2**24


def node_variables(pool: str) -> dict[str, str]:
    """What is the same for all tasks of a node: a task has one node, this one, and is one process on it."""
    host = socket.gethostname()
    pools = ("AWS_BATCH_CE_NAME", "AWS_BATCH_JQ_NAME", "SLURM_JOB_PARTITION", "PBS_QUEUE", "PBS_O_QUEUE", "LSB_QUEUE")
    hosts = ("SLURM_SUBMIT_HOST", "SLURMD_NODENAME", "SLURM_NODELIST", "SLURM_JOB_NODELIST", "PBS_O_HOST", "LSB_HOSTS")
    ones = ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NNODES", "SLURM_JOB_NUM_NODES", "SLURM_TASKS_PER_NODE")
    zeros = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_GTIDS", "PBS_NODENUM")
    named = [(pools, pool), (hosts, host), (ones, "1"), (zeros, "0")]
    variables = {name: value for names, value in named for name in names}
    return _LAUNCHERS | variables | {"SLURM_CLUSTER_NAME": "piecework", "PBS_ENVIRONMENT": "PBS_BATCH"}


def array_variables(task: ClaimedTask, stage: StageWork, *, directory: Path, cpus: int, memory_bytes: int) -> Variables:
    """Those of one task, which starts in `directory` and has these cores and bytes of memory.

    Its number is its index, or what the job's range gives it instead. As long as the size of the array is not known,
    the variables that tell it are not set.
    """
    number = task_number(task, stage)
    job = job_number(task.job_id, task.stage)
    return {
        **task_variables(task.job_id, job, task.index, number, task.attempt),
        **_own_and_aws_batch(stage),
        **_slurm(stage, job, cpus, memory_bytes),
        **_pbs_and_others(stage, job, cpus),
        **dict.fromkeys(_DIRECTORIES, directory),
    }


def task_number(task: ClaimedTask, stage: StageWork) -> int:
    return task.index if stage.array is None else stage.array.numbers[task.index]


def job_number(job_id: UUID, stage: int) -> int:
    """A number for a stage of a job, the same on every node: whole, and below 2^31 even if 10,000,000 are added to it.

    Two stages that run at the same time have the same one as rarely as chance in two thousand million allows.
    """
    digest = hashlib.sha256(job_id.bytes + stage.to_bytes(2)).digest()
    return _NUMBER_MIN + int.from_bytes(digest[:8]) % (_NUMBER_MAX - _NUMBER_MIN)


def _own_and_aws_batch(stage: StageWork) -> Variables:
    if stage.array is None:
        return {}
    return dict.fromkeys(("PIECEWORK_TASK_COUNT", "AWS_BATCH_JOB_ARRAY_SIZE"), len(stage.array.numbers))


def _slurm(stage: StageWork, job: int, cpus: int, memory_bytes: int) -> Variables:
    variables: Variables = {
        "SLURM_JOB_NAME": stage.job_name,
        "SLURM_ARRAY_JOB_ID": job,
        **dict.fromkeys(("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE"), cpus),
        "SLURM_MEM_PER_NODE": memory_bytes // 1_048_576,
    }
    if stage.array is not None:
        first, last, step = _bounds(stage.array.numbers)
        variables |= {
            "SLURM_ARRAY_TASK_COUNT": len(stage.array.numbers),
            "SLURM_ARRAY_TASK_MIN": first,
            "SLURM_ARRAY_TASK_MAX": last,
            "SLURM_ARRAY_TASK_STEP": step,
        }
    return variables


def _pbs_and_others(stage: StageWork, job: int, cpus: int) -> Variables:
    """PBS Professional and Torque, Grid Engine, LSF."""
    variables: Variables = {
        "PBS_ARRAY_ID": f"{job}[].piecework",
        **dict.fromkeys(("PBS_JOBNAME", "JOB_NAME", "LSB_JOBNAME"), stage.job_name),
        **dict.fromkeys(("JOB_ID", "LSB_JOBID"), job),
        **dict.fromkeys(("NCPUS", "NSLOTS", "LSB_DJOB_NUMPROC"), cpus),
    }
    if stage.array is not None:
        first, last, step = _bounds(stage.array.numbers)
        variables |= {
            "SGE_TASK_FIRST": first,
            **dict.fromkeys(("SGE_TASK_LAST", "LSB_JOBINDEX_END"), last),
            **dict.fromkeys(("SGE_TASK_STEPSIZE", "LSB_JOBINDEX_STEP"), step),
        }
    return variables


def _bounds(numbers: Sequence[int]) -> tuple[int, int, int]:
    """The least number, the greatest, and the step between them; as in Slurm, a list has the step 1."""
    if isinstance(numbers, range):
        return numbers[0], numbers[-1], numbers.step
    return min(numbers), max(numbers), 1
