#!/usr/bin/env python
"""Train a chain of assistants (`mkd-det chain`)."""

import _environment  # noqa: F401

from mkd_det.cli.chain import main

if __name__ == '__main__':
    raise SystemExit(main())
