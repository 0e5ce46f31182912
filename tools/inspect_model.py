#!/usr/bin/env python
"""List the modules of a model with shapes and strides (`mkd-det inspect`)."""

import _environment  # noqa: F401

from mkd_det.cli.inspect import main

if __name__ == '__main__':
    raise SystemExit(main())
