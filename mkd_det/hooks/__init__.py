"""Hooks for mmengine's runner, one a file."""

from .attention_map_hook import AttentionMapHook
from .difficulty_hook import DifficultyHook
from .distill_hook import DistillHook
from .export_student_hook import ExportStudentHook
from .gradient_share_hook import GradientShareHook
from .last_validation_hook import LastValidationHook
from .resume_state_hook import ResumeStateHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .teacher_cache_hook import TeacherCacheHook
from .teacher_check_hook import TeacherCheckHook

__all__ = [
    'AttentionMapHook',
    'DifficultyHook',
    'DistillHook',
    'ExportStudentHook',
    'GradientShareHook',
    'LastValidationHook',
    'ResumeStateHook',
    'SafeCheckpointHook',
    'TeacherCacheHook',
    'TeacherCheckHook',
]
