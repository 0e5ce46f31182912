#!/usr/bin/env python
"""Watch a small detector learn from a big one (`mkd-det demo`)."""

import _environment  # noqa: F401

from mkd_det.cli.demo import main

if __name__ == '__main__':
    raise SystemExit(main())
