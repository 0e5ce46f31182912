"""Tell a Python without the packages in one line; the tools import this first."""

import sys
from importlib.util import find_spec

NEEDED = ('torch', 'mmengine', 'mmcv', 'mmdet', 'rich', 'mkd_det')

missing = [name for name in NEEDED if find_spec(name) is None]
if missing:
    sys.stderr.write(
        f'{sys.executable} has no {", ".join(missing)}.'
        ' Run `. .venv/bin/activate` (`make env` makes it) or `pip install -e .`\n'
    )
    raise SystemExit(2)
