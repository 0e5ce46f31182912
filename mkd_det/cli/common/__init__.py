"""What the commands share: arguments, exit codes, output.

Nothing here imports torch or mmengine at the top, see `mkd_det.startup`.
"""

from .arguments import (
    add_class_map,
    add_config,
    add_devices,
    add_launcher,
    add_verbose,
    as_dict,
    command_parser,
    options_of,
)
from .executors import add_executor, use_executor
from .guard import BAD_INPUT, command, guard, print_error
from .interrupts import INTERRUPTED, leave_process
from .output import class_map_table, console, quiet_libraries, shown_output
from .work_dir import set_work_dir

__all__ = [
    'BAD_INPUT',
    'INTERRUPTED',
    'add_class_map',
    'add_config',
    'add_devices',
    'add_executor',
    'add_launcher',
    'add_verbose',
    'as_dict',
    'class_map_table',
    'command',
    'command_parser',
    'console',
    'guard',
    'leave_process',
    'options_of',
    'print_error',
    'quiet_libraries',
    'set_work_dir',
    'shown_output',
    'use_executor',
]
