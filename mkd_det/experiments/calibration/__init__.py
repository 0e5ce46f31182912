"""Calibration: fixed weights of terms from the shares that they are to have."""

from .run import CalibratedTerm, Calibration, Settings, calibrate

__all__ = ['CalibratedTerm', 'Calibration', 'Settings', 'calibrate']
