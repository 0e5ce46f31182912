"""Trainings as jobs of submitit: on this machine, or in the queue of a Slurm cluster.

The job runs the same command as a process of this experiment would, with the same work
dir and log, so that an experiment can be begun one way and resumed the other way.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ConfigError, ExperimentError
from ...io.json_files import read_json
from . import training_job
from .recovery import LOG
from .training_job import TrainingJob
from .training_run import TrainingRun

EXECUTORS = ('local', 'slurm')
# Folder of submitit's own files, in the work dir of a training.
JOBS = 'jobs'
# A day: submitit's own are minutes. A job that reaches it goes on in a new one.
_DEFAULTS: dict[str, Any] = dict(timeout_min=24 * 60)
_MOST_TIMEOUTS = 1000
# Seconds that a job gets to end.
_PATIENCE = 20.0


@dataclass
class RunningJob:
    """A job of submitit.

    Args:
        job: The job.
        executor: 'local' or 'slurm'.
        folder: Folder of submitit's files.
        note: File that the job writes its figures to.
        stop: File that ends it.
    """

    job: Any
    executor: str
    folder: Path
    note: Path
    stop: Path
    ended: bool = field(default=False, init=False)

    @property
    def record(self) -> Mapping[str, Any] | None:
        """How to find the job again; None for local ones, which end with us."""
        if self.executor == 'local' or self.ended:
            return None
        return dict(executor=self.executor, id=self.job.job_id, note=str(self.note))

    def poll(self) -> int | None:
        """Return the exit code; None while the job waits or runs."""
        if not self.job.done():
            return None
        self.ended = True
        code = self._noted().get('code')
        return 1 if code is None else int(code)

    def why(self) -> str:
        """Return what submitit knows about a job that ended without an exit code."""
        error = None
        with suppress(Exception):  # submitit raises what the job has raised
            error = self.job.exception()
        text = f'job {self.job.job_id} ({self.executor}): {self.job.state}'
        lines = str(error).strip().splitlines() if error is not None else []
        return '\n    '.join([text, *lines[-5:]])

    def seconds(self) -> float:
        """Return how long it has run; waiting does not count."""
        noted = self._noted()
        if 'seconds' in noted:
            return float(noted['seconds'])
        return max(0.0, time.time() - noted['begun']) if 'begun' in noted else 0.0

    def memory(self) -> float:
        """Return its peak memory in MiB, once it has ended."""
        return float(self._noted().get('memory') or 0.0)

    def end(self) -> None:
        """Stop it, and wait until it has stopped."""
        if self.ended or self.job.done():
            return
        self.stop.touch()
        self.job.cancel(check=False)
        limit = time.monotonic() + _PATIENCE
        while not self.job.done() and time.monotonic() < limit:
            time.sleep(0.1)
        self.ended = True

    def _noted(self) -> dict[str, Any]:
        noted = read_json(self.note)
        return noted if isinstance(noted, dict) else {}


@dataclass(frozen=True)
class JobLauncher:
    """Starts each training as a job of submitit.

    Args:
        executor: 'local' or 'slurm'.
        options: Parameters of submitit's `AutoExecutor`, such as `timeout_min`,
            `gpus_per_node`, `slurm_partition`.

    Raises:
        ConfigError: submitit or Slurm is missing, or does not know an option.
    """

    executor: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_executor(self.executor, self.options)

    def start(self, run: TrainingRun, environment: Mapping[str, str]) -> RunningJob:
        """Submit a training; it resumes if it was begun.

        Args:
            run: The training.
            environment: Additional environment variables.

        Raises:
            ExperimentError: The cluster has refused the job.
        """
        folder = (run.folder / JOBS).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        name = f'{time.time_ns():x}'
        note, stop = folder / f'{name}.json', folder / f'{name}.stop'
        local = self.executor == 'local'
        if local and 'gpus_per_node' not in self.options:
            # submitit hides all GPUs from local jobs that ask for none.
            visible = os.environ.get('CUDA_VISIBLE_DEVICES')
            given = {'CUDA_VISIBLE_DEVICES': visible, **environment}
        else:
            given = dict(environment)
        job = TrainingJob(
            [sys.executable, *run.arguments, '--resume'],
            os.getcwd(),
            str((run.folder / LOG).absolute()),
            str(note),
            given,
            str(stop),
            os.getpid() if local else None,
        )
        try:
            submitted = _auto_executor(folder, self.executor, self.options).submit(job)
        except Exception as error:  # of whatever sbatch says
            raise ExperimentError(
                f'{run.title}: the job could not be submitted',
                actual=str(error).strip().splitlines()[-1:] or type(error).__name__,
                fix='correct --executor-options',
            ) from error
        return RunningJob(submitted, self.executor, folder, note, stop)

    def find(self, run: TrainingRun, record: Mapping[str, Any]) -> RunningJob | None:
        """Return a job of an earlier process that still waits or runs.

        Args:
            run: The training.
            record: What `RunningJob.record` was.
        """
        return find_job(run, record)


def find_job(run: TrainingRun, record: Mapping[str, Any]) -> RunningJob | None:
    """Return a job in a queue that an earlier process has submitted, unless it ended.

    Args:
        run: The training.
        record: What `RunningJob.record` was.

    Raises:
        ExperimentError: The queue cannot be asked from here.
    """
    if record.get('executor') != 'slurm':
        return None
    try:
        check_executor('slurm', {})
        from submitit import SlurmJob

        folder = (run.folder / JOBS).absolute()
        job: Any = SlurmJob(folder, str(record['id']))
        if job.done(force_check=True):
            return None
    except Exception as error:
        raise ExperimentError(
            f'{run.title}: was begun as job {record.get("id")}, which may still run',
            actual=str(error).splitlines()[0],
            fix='start again on a machine of the cluster, where squeue works',
        ) from error
    note = Path(record['note'])
    return RunningJob(job, 'slurm', folder, note, note.with_suffix('.stop'))


def check_executor(executor: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an executor or options that do not work here.

    Args:
        executor: 'local' or 'slurm'.
        options: Parameters of submitit's `AutoExecutor`.
    """
    if importlib.util.find_spec('submitit') is None:
        raise ConfigError(
            '--executor needs a package that is not installed',
            expected='submitit',
            fix='pip install submitit',
        )
    try:
        with tempfile.TemporaryDirectory() as folder:
            _auto_executor(Path(folder), executor, options)
    except Exception as error:
        no_cluster = 'srun' in str(error)
        raise ConfigError(
            f'--executor {executor} does not work here'
            if no_cluster
            else '--executor-options: submitit does not take them',
            actual=f'{type(error).__name__}: {str(error).splitlines()[0]}',
            fix='--executor local, or start it on a machine of the cluster'
            if no_cluster
            else "AutoExecutor's: timeout_min=600 gpus_per_node=1 slurm_partition=NAME",
        ) from error


def _auto_executor(folder: Path, executor: str, options: Mapping[str, Any]) -> Any:
    import cloudpickle
    import submitit

    # Or each job would import torch and mmdet before it starts the training.
    cloudpickle.register_pickle_by_value(training_job)
    limit = {f'{executor}_max_num_timeout': _MOST_TIMEOUTS}
    made = submitit.AutoExecutor(folder, cluster=executor, **limit)
    made.update_parameters(name='mkd_det', **{**_DEFAULTS, **options})
    return made
