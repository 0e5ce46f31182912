"""Runs the command line: `python -m mkd_det COMMAND`, the same as `mkd-det COMMAND`."""

from .cli import main

if __name__ == '__main__':
    raise SystemExit(main())
