"""Runs the command line: `python -m mkd_det COMMAND`, the same as `mkd-det COMMAND`."""

import sys

try:
    from .cli import main
except KeyboardInterrupt:  # in the first tenths of a second
    sys.stderr.write('\nStopped by Ctrl-C.\n')
    raise SystemExit(130) from None

if __name__ == '__main__':
    raise SystemExit(main())
