"""Count the test cases behind each promise of docs/reliability.md.

    python scripts/count_cases.py           # says which counts differ
    python scripts/count_cases.py --write   # writes them into the page

A row of the table names its tests: `tests/io/test_atomic.py`, or those of a file whose
names have a word: `tests/io/test_atomic.py -k kill`. They are collected, not run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'reliability.md'
# A row of a table: promise, tests, count.
_ROW = re.compile(
    r'^\| (?P<promise>.+?) \| (?P<tests>`tests/.+?`) \| (?P<count>\d+) \|$'
)
_TESTS = re.compile(r'`(?P<path>tests/[\w/.]+)(?: -k (?P<word>\w+))?`')


def selectors(line: str) -> list[tuple[str, str]] | None:
    """Return paths and words of the tests of a row; None for another line."""
    row = _ROW.match(line)
    return None if row is None else _TESTS.findall(row['tests'])


def collect(paths: list[str]) -> list[str]:
    """Return the ids of all test cases in files and folders."""
    command = [sys.executable, '-m', 'pytest', '--collect-only', '-q', *paths]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if shown.returncode:
        raise SystemExit(shown.stdout + shown.stderr)
    return [line for line in shown.stdout.splitlines() if '::' in line]


def count(cases: list[str], tests: list[tuple[str, str]]) -> int:
    """Return the number of cases that some tests have, each counted once."""
    found = set()
    for path, word in tests:
        chosen = [case for case in cases if case.startswith(path)]
        found |= {case for case in chosen if word in case.partition('::')[2]}
    return len(found)


def main() -> int:
    """Compare or write the counts; return the exit code."""
    lines = PAGE.read_text(encoding='utf-8').splitlines()
    rows = {i: tests for i, line in enumerate(lines) if (tests := selectors(line))}
    paths = sorted({path for tests in rows.values() for path, _ in tests})
    cases, different = collect(paths), 0
    for index, tests in rows.items():
        number = count(cases, tests)
        line = re.sub(r'\d+ \|$', f'{number} |', lines[index])
        if line != lines[index]:
            different += 1
            print(line)
        lines[index] = line
    if '--write' in sys.argv[1:]:
        PAGE.write_text('\n'.join(lines) + '\n', encoding='utf-8')
        return 0
    return int(different > 0)


if __name__ == '__main__':
    raise SystemExit(main())
