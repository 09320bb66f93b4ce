"""The door to everything about vLLM's flags: settings to argv, flags to settings, and a check of a user's own.

Separate files do the work; this one names what others may use.
"""

from metainf.extra_args import RESERVED_FLAGS, ExtraArgProblem, ExtraArgReason, check_extra_args
from metainf.flag_parsing import ParsedFlags, parse_flags
from metainf.serve_args import DraftModel, Entrypoint, layout_flags, serve_argv, settings_flags

__all__ = [
    "RESERVED_FLAGS",
    "DraftModel",
    "Entrypoint",
    "ExtraArgProblem",
    "ExtraArgReason",
    "ParsedFlags",
    "check_extra_args",
    "layout_flags",
    "parse_flags",
    "serve_argv",
    "settings_flags",
]
