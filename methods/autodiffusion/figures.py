"""Figures of AutoDiffusion, drawn from the measurements and arrays of its arms."""

from __future__ import annotations
