#!/usr/bin/env python
"""Train a student with its teachers, or any plain model (`mkd-det train`)."""

import _environment  # noqa: F401

from mkd_det.cli.train import main

if __name__ == '__main__':
    raise SystemExit(main())
