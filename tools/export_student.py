#!/usr/bin/env python
"""Write the plain student of a distill run (`mkd-det export`)."""

import _environment  # noqa: F401

from mkd_det.cli.export import main

if __name__ == '__main__':
    raise SystemExit(main())
