"""Trainings as jobs of submitit: the same log, result and resume as processes."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from experiment_runs import make_run
from mkd_det.errors import ConfigError, ExperimentError
from mkd_det.experiments.runs import (
    JobLauncher,
    LineDisplay,
    TrainingResult,
    TrainingRun,
    jobs,
    run_training,
)

pytest.importorskip('submitit')

# Stands in for a training: leaves what a finished one leaves, and notes its arguments.
TRAINING = """
import json, os, sys, time, zipfile
from pathlib import Path
print('trained with', sys.argv[1:], 'device', os.environ.get('CUDA_VISIBLE_DEVICES'))
folder = Path({folder!r})
while not Path({go!r}).exists():
    time.sleep(0.05)
log = folder / '2025/vis_data/scalars.json'
log.parent.mkdir(parents=True)
metrics = {{'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'data_time': 0.1}}
log.write_text(json.dumps({{**metrics, 'step': 2}}) + chr(10))
with zipfile.ZipFile(folder / 'epoch_2.pth', 'w') as archive:
    archive.writestr('data', 'x')
"""
# What a cluster answers, as far as submitit asks: jobs run at once, on this machine.
SBATCH = """#!{python}
import os, subprocess, sys
script, folder = sys.argv[-1], {folder!r}
number = len([name for name in os.listdir(folder) if name.endswith('.pid')]) + 1
env = dict(os.environ, SLURM_JOB_ID=str(number), SLURM_NTASKS='1', SLURM_NODEID='0')
env.update(SLURM_JOB_NUM_NODES='1', SLURM_PROCID='0', SLURM_LOCALID='0')
with open(script) as file:
    print('Submitted batch job', number)
job = subprocess.Popen(
    ['bash', script], env=env, start_new_session=True,
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)
with open(os.path.join(folder, str(number) + '.pid'), 'w') as file:
    file.write(str(job.pid))
"""
SRUN = """#!{python}
import os, sys
rest = sys.argv[1:]
while rest and rest[0].startswith('--'):
    takes_value = rest[0] in ('--output', '--error')
    rest = rest[2 if takes_value else 1:]
os.execvp(rest[0], rest)
"""
SACCT = """#!{python}
import os
print('JobID|State|NodeList')
for name in os.listdir({folder!r}):
    number, _, kind = name.partition('.')
    if kind == 'pid':
        pid = open(os.path.join({folder!r}, name)).read()
        try:
            os.kill(int(pid), 0)
            with open('/proc/' + pid + '/stat') as file:
                state = 'COMPLETED' if file.read().split()[2] == 'Z' else 'RUNNING'
        except OSError:
            state = 'COMPLETED'
        print(number + '|' + state + '|here')
"""
SCANCEL = """#!{python}
import os, signal, sys
pid = int(open(os.path.join({folder!r}, sys.argv[1] + '.pid')).read())
os.killpg(pid, signal.SIGKILL)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingRun:
    """A training that ends when the file `go` is there."""
    run = make_run(tmp_path / 'run')
    code = TRAINING.format(folder=str(run.folder), go=str(tmp_path / 'go'))
    monkeypatch.setattr(TrainingRun, 'arguments', ['-c', code])
    # `jobs` is imported by name in the job: nothing of the tests is.
    return run


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of Slurm that run jobs at once; returns the folder of their numbers."""
    folder, programs = tmp_path / 'queue', tmp_path / 'bin'
    folder.mkdir()
    programs.mkdir()
    texts = dict(sbatch=SBATCH, srun=SRUN, sacct=SACCT, scancel=SCANCEL)
    for name, text in texts.items():
        file = programs / name
        file.write_text(text.format(python=sys.executable, folder=str(folder)))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv('PATH', f'{programs}{os.pathsep}{os.environ["PATH"]}')
    return folder


def state_of(run: TrainingRun) -> dict[str, Any]:
    return json.loads((run.folder / 'stage.json').read_text())


def wait_for(condition: Any) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_local_job_yields_what_a_process_yields(
    run: TrainingRun, tmp_path: Path
) -> None:
    (tmp_path / 'go').touch()
    device = {'CUDA_VISIBLE_DEVICES': '5'}
    result = run_training(run, device, LineDisplay(1), launcher=JobLauncher('local'))
    assert isinstance(result, TrainingResult)
    assert result.metrics == {'box_map': 0.25, 'box_map_50': 0.5}
    assert result.seconds > 0 and result.memory and result.memory > 1
    log = (run.folder / 'train.log').read_text()
    assert "['--resume'] device 5" in log
    assert (run.folder / 'done.json').is_file() and 'job' not in state_of(run)
    again = run_training(run, {}, LineDisplay(1), launcher=JobLauncher('local'))
    assert again.seconds == result.seconds


def test_a_job_that_fails_shows_the_log(
    run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = 'print("last line"); raise SystemExit(3)'
    monkeypatch.setattr(TrainingRun, 'arguments', ['-c', code])
    with pytest.raises(ExperimentError) as caught:
        run_training(run, {}, LineDisplay(1), launcher=JobLauncher('local'))
    assert 'exit code 3' in caught.value.message
    assert 'last line' in caught.value.actual
    assert str(run.folder / 'train.log') in caught.value.fix


def test_an_interrupt_ends_a_local_job(run: TrainingRun) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        run_training(run, {}, LineDisplay(1), stop, JobLauncher('local'))
    assert list((run.folder / 'jobs').glob('*.stop'))
    assert not (run.folder / 'done.json').exists()


def test_a_job_ends_with_its_owner(tmp_path: Path) -> None:
    """The process that has submitted a local job may be killed at any moment."""
    gone = 2**22 + 1  # above the largest number of a process
    job = jobs.TrainingJob(
        [sys.executable, '-c', 'import time; time.sleep(600)'],
        str(tmp_path),
        str(tmp_path / 'log'),
        str(tmp_path / 'note.json'),
        {},
        str(tmp_path / 'stop'),
        gone,
    )
    assert job() < 0  # ended by a signal
    assert json.loads((tmp_path / 'note.json').read_text())['code'] < 0


def test_a_job_of_a_queue_is_found_again(
    run: TrainingRun, cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Whoever waits for it may be gone, and come back: nothing is trained twice."""
    launcher = JobLauncher('slurm', {'slurm_partition': 'x'})
    first = launcher.start(run, {})
    wait_for(lambda: (run.folder / 'train.log').is_file())
    state = dict(fingerprint=run.fingerprint, made_from=run.made_from, seconds=5.0)
    state['job'] = first.record
    assert first.record and first.record['executor'] == 'slurm'
    (run.folder / 'stage.json').write_text(json.dumps(state))
    timer = threading.Timer(0.5, (tmp_path / 'go').touch)
    timer.start()
    # Also without --executor: the job is in the queue either way.
    result = run_training(run, {}, LineDisplay(1))
    timer.join()
    assert 'still runs as job 1' in capsys.readouterr().out
    assert result.metrics['box_map'] == 0.25 and result.seconds > 5
    assert [file.name for file in cluster.iterdir()] == ['1.pid']
    script = next((run.folder / 'jobs').glob('*submission*.sh')).read_text()
    assert '#SBATCH --partition=x' in script and '#SBATCH --time=1440' in script


def test_an_interrupt_cancels_a_job_of_a_queue(run: TrainingRun, cluster: Path) -> None:
    stop = Event()
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_training(run, {}, LineDisplay(1), stop, JobLauncher('slurm'))
    timer.join()
    pid = int((cluster / '1.pid').read_text())
    wait_for(lambda: not_running(pid))
    assert 'job' not in state_of(run)


def not_running(pid: int) -> bool:
    status = Path('/proc', str(pid), 'stat')
    return not status.exists() or status.read_text().split()[2] == 'Z'


def test_a_job_goes_on_in_a_new_one_at_its_time_limit(tmp_path: Path) -> None:
    job = jobs.TrainingJob([], '', '', '', {}, '', None)
    assert job.checkpoint().function is job


def test_no_cluster_and_unknown_options_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        JobLauncher('local', {'colour': 'red'})
    assert 'colour' in caught.value.actual and 'timeout_min' in caught.value.fix
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        JobLauncher('slurm')
    assert '--executor local' in caught.value.fix
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ConfigError) as caught:
        JobLauncher('local')
    assert caught.value.fix == 'pip install submitit'
