#!/usr/bin/env python
"""Evaluate a student (or any plain model) on its test set (`mkd-det test`)."""

import _environment  # noqa: F401

from mkd_det.cli.test import main

if __name__ == '__main__':
    raise SystemExit(main())
