"""The batch script is run for real, with stand-ins for SLURM's programs and torchrun that record what they are told."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from open4m.cli.main import main
from open4m.train.slurm import SlurmJob, _seconds, render
from open4m.types import Open4MError

PROGRAMS = {
    "srun": 'echo "srun $*" >> "$LOG"; shift; "$@"',
    # As torchrun: it gives the signal to its ranks, waits for them, and returns 1 whatever they return.
    "torchrun": """
        echo "torchrun $*" >> "$LOG"; echo $$ > "$LOG.step"
        trap 'sleep 0.3; echo saved >> "$LOG"; exit 1' TERM
        echo up >> "$LOG"
        for i in $(seq 600); do [ -e "$LOG.end" ] && exit "$(cat "$LOG.end")"; sleep 0.05; done
    """,
    "scontrol": """
        echo "scontrol $*" >> "$LOG"
        if [ "$1" = show ]; then echo first-node; echo second-node; fi
    """,
    "scancel": 'echo "scancel $*" >> "$LOG"; kill -TERM "$(cat "$LOG.step")"',
}


def wait_for(log, text):
    for _ in range(600):
        if log.is_file() and text in log.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"{text!r} is not in {log.read_text() if log.is_file() else 'a file that is not there'}")


@pytest.fixture
def cluster(tmp_path):
    """Starts the script of a job; returns its process and the log of what was called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    started = []

    def start(job):
        (tmp_path / "job.sh").write_text(render(job, tmp_path))
        assert subprocess.run(["bash", "-n", tmp_path / "job.sh"]).returncode == 0
        log = tmp_path / "log"
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "LOG": str(log),
            "SLURM_JOB_ID": "12345",
            "SLURM_JOB_NODELIST": "node[1-2]",
        }
        started.append(subprocess.Popen(["bash", tmp_path / "job.sh"], env=environment))
        wait_for(log, "up")
        return started[-1], log

    yield start
    for process in started:
        process.kill()
        process.wait()


JOB = SlurmJob(words=("4m-7-b", "--tokens", "a folder/tokens", 'train.length="9 steps"'), nodes=2, gpus_per_node=4)


def test_the_signal_reaches_the_ranks_which_save_and_the_job_is_queued_again(cluster):
    process, log = cluster(JOB)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 1
    called = log.read_text().splitlines()
    assert called[-3:] == ["scancel --signal=TERM 12345.0", "saved", "scontrol requeue 12345"]


def test_a_second_signal_while_the_ranks_save_changes_nothing(cluster):
    process, log = cluster(JOB)
    process.send_signal(signal.SIGTERM)
    wait_for(log, "scancel")
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    called = log.read_text().splitlines()
    assert called.count("saved") == called.count("scontrol requeue 12345") == 1


@pytest.mark.parametrize("code", [0, 2])
def test_a_training_that_ended_by_itself_is_not_queued_again(cluster, code):
    process, log = cluster(JOB)
    Path(f"{log}.end").write_text(str(code))
    assert process.wait(timeout=30) == code
    assert "requeue" not in log.read_text()


def test_torchrun_gets_the_ranks_the_meeting_place_and_the_training(cluster):
    process, log = cluster(JOB)
    Path(f"{log}.end").write_text("0")
    process.wait(timeout=30)
    (line,) = (line for line in log.read_text().splitlines() if line.startswith("torchrun"))
    for word in ("--nnodes=2", "--nproc-per-node=4", "--rdzv-endpoint=first-node:22345", "--rdzv-id=12345"):
        assert word in line.split()
    assert "--shutdown-timeout=540" in line
    assert line.endswith('--module open4m train 4m-7-b --tokens a folder/tokens train.length="9 steps"')


def test_torchrun_knows_the_options():
    """Of the version that is installed."""
    from torch.distributed.run import get_args_parser

    text = re.sub(r'"\$head:.*?"', "node:1", render(JOB, Path("/work"))).replace("\\\n", " ")
    words = shlex.split(text[text.index("srun --cpus-per-task=64 torchrun") :].partition(" &\n")[0])[3:]
    known = get_args_parser().parse_args(words)
    assert known.training_script_args == ["train", *JOB.words]
    assert (known.nnodes, known.nproc_per_node, known.module, known.training_script) == ("2", "4", True, "open4m")
    assert (known.shutdown_timeout, known.signals_to_handle) == (540, "SIGTERM,SIGINT,SIGHUP,SIGQUIT")


def test_the_header_asks_for_the_signal_early_enough_and_for_requeueing():
    header = [line for line in render(JOB, Path("/work")).splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --signal=B:TERM@600" in header
    assert "#SBATCH --requeue" in header
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=4", "#SBATCH --ntasks-per-node=1"} <= {*header}
    cpus = render(SlurmJob(words=("debug",), gpus_per_node=0, setup=("module load x",)), Path("/work"))
    assert "gpus" not in cpus
    assert "--nproc-per-node=1 " in cpus
    assert cpus.index("module load x") < cpus.index("srun --cpus-per-task=")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"words": ()}, "a job needs a training"),
        ({"time": "a day"}, "SLURM's form"),
        ({"name": "a\n#SBATCH --exclusive"}, "expected letters"),
        ({"nodes": 0}, "nodes"),
        ({"grace": 10}, "grace"),
    ],
)
def test_what_no_job_can_be_is_refused(fields, message):
    with pytest.raises(Open4MError, match=message):
        SlurmJob(**{"words": ("debug",), **fields})


def test_the_command_writes_the_script(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "slurm",
        "--nodes",
        "4",
        "--out",
        "job.sh",
        "--partition",
        "gpu",
        "--",
        "debug",
        "--out",
        "runs/x",
        "processes=3",
    ]
    assert main(words) == 0
    assert capsys.readouterr().out == "sbatch job.sh\n"
    text = (tmp_path / "job.sh").read_text()
    assert "--module open4m train debug --out runs/x processes=3 &" in text
    assert f"cd {tmp_path} ||" in text
    assert main(["slurm", "--out", "b.sh", "--", "debgu"]) == 2
    assert "did you mean debug" in capsys.readouterr().err
    assert main(["slurm", "--out", "b.sh", "--", "debug", "proceses=3"]) == 2
    assert "proceses" in capsys.readouterr().err
    assert main(["slurm", "--out", "b.sh", "--", "debug", "more"]) == 2
    assert not (tmp_path / "b.sh").exists()


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("1:30", 90), ("1:00:01", 3601), ("2-0", 172_800), ("1-2:03", 93_780), ("1-2:03:04", 93_784)],
)
def test_times_are_read_as_slurm_reads_them(time, seconds):
    assert _seconds(time) == seconds
    if seconds > 600:
        SlurmJob(words=("debug",), time=time)
    else:
        with pytest.raises(Open4MError, match=rf"time {time}: is {seconds} seconds for SLURM; expected more than"):
            SlurmJob(words=("debug",), time=time)
