"""A batch script of SLURM that trains on many machines, saves before its time is over, and goes on in the next job.

The batch system sends SIGTERM to the script some minutes before the end of the job (``--signal=B:TERM@…``). The script
passes it on to the job's step, where torchrun gives it to every rank and waits for them; they save and end. Then the
script puts the job back into the queue, and the same command resumes. torchrun reports a failure after a good save, so
that the script remembers that it was asked, instead of looking at exit codes.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from open4m.ranges import Count, Range, Size, check_ranges
from open4m.types import Open4MError

SPARE_SECONDS = 60
"""Between the end of the time to save and the end of the job. The batch system sends its signal up to so much late."""

FIRST_PORT, PORTS = 20_000, 10_000
"""Where the ranks meet: a port that follows from the job's number, so that jobs of one machine do not collide."""


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """``words``: those of ``open4m train`` after its name. ``setup``: lines that are run first, such as the activation
    of an environment. ``grace``: seconds between the signal and the end of the job, in which a step is finished and
    saved. ``gpus_per_node`` 0: one process per machine, on its CPUs. Times are SLURM's, such as 1-12:00:00."""

    words: tuple[str, ...]
    nodes: Size = 1
    gpus_per_node: Count = 8
    cpus_per_node: Size = 64
    time: str = "24:00:00"
    grace: Annotated[int, Range(120, 86_400)] = 600
    name: str = "open4m"
    partition: str | None = None
    account: str | None = None
    setup: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.words:
            raise Open4MError("a job needs a training: the words after open4m train, such as 4m-7-b --out runs/b")
        if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", self.time):
            raise Open4MError(f"time {self.time!r}: expected SLURM's form, such as 24:00:00 or 1-12:00:00")
        if (seconds := _seconds(self.time)) <= self.grace:
            raise Open4MError(
                f"time {self.time}: is {seconds} seconds for SLURM; expected more than the {self.grace} in which a job "
                "saves (--grace)"
            )
        for field in ("name", "partition", "account"):
            value = getattr(self, field)
            if value is not None and not re.fullmatch(r"[\w.,@+-]+", value):
                raise Open4MError(f"{field} {value!r}: expected letters, digits and . , @ + - _")


def _seconds(time: str) -> int:
    """Of a time as SLURM reads it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, minutes, seconds = ([0, *parts, 0] if len(parts) == 1 else [0, *parts])[-3:]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def render(job: SlurmJob, directory: Path) -> str:
    """The text of the script. ``directory``: where it runs, on a file system that all machines share."""
    options = {
        "job-name": job.name,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": job.cpus_per_node,
        "gpus-per-node": job.gpus_per_node or None,
        "time": job.time,
        "partition": job.partition,
        "account": job.account,
        "signal": f"B:TERM@{job.grace}",
        "open-mode": "append",
        "output": "slurm-%j.log",
    }
    header = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    processes = max(1, job.gpus_per_node)
    return SCRIPT.format(
        header="\n".join([*header, "#SBATCH --requeue"]),
        directory=shlex.quote(str(directory)),
        setup="\n".join(job.setup),
        cpus=job.cpus_per_node,  # which steps do not take from their job, since SLURM 22.05
        threads=max(1, job.cpus_per_node // processes // 2),
        first=FIRST_PORT,
        ports=PORTS,
        nodes=job.nodes,
        processes=processes,
        patience=job.grace - SPARE_SECONDS,
        words=shlex.join(job.words),
    )


SCRIPT = """#!/bin/bash
{header}
# Written by open4m slurm. Submit it with sbatch; it puts itself back into the queue until the training is finished.

cd {directory} || exit 2
{setup}
export OMP_NUM_THREADS={threads}

asked=0
# To the processes of the step, not to srun, which would end them at once. The script's only step is number 0.
trap 'asked=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --cpus-per-task={cpus} torchrun --nnodes={nodes} --nproc-per-node={processes} \\
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head:$(({first} + SLURM_JOB_ID % {ports}))" \\
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT --shutdown-timeout={patience} \\
    --module open4m train {words} &
step=$!

# A signal ends wait before the step has ended: wait again.
while :; do
    wait "$step"
    code=$?
    kill -0 "$step" 2>/dev/null || break
done

if [ "$asked" = 1 ] && [ "$code" != 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
