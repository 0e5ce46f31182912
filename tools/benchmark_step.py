#!/usr/bin/env python
"""Measure time and memory of a distillation step (`mkd-det benchmark`)."""

import _environment  # noqa: F401

from mkd_det.cli.benchmark import main

if __name__ == '__main__':
    raise SystemExit(main())
