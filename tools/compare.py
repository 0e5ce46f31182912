#!/usr/bin/env python
"""Compare ways to train one student (`mkd-det compare`)."""

import _environment  # noqa: F401

from mkd_det.cli.compare import main

if __name__ == '__main__':
    raise SystemExit(main())
