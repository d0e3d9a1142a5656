"""Objectives, the trainer and its entry point."""
