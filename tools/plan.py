#!/usr/bin/env python
"""Print the checked plan of a distill config (`mkd-det plan`)."""

import _environment  # noqa: F401

from mkd_det.cli.plan import main

if __name__ == '__main__':
    raise SystemExit(main())
