"""A reward model over HTTP, and reward functions for trainers that call one."""
