"""Trains on this machine: one process, or ``accelerate launch`` with one a device."""

import os

from rm_workflow.training import launch
from rm_workflow.training.launchers import Running, Tell, Training
from rm_workflow.training.launchers._process_group import ProcessGroup


def check() -> None:
    """Need nothing beside what the project itself needs."""


def mapper() -> None:
    """Tokenise and score in the process that asks for it: its libraries use all cores, or the GPU, already."""


def start(training: Training, tell: Tell) -> Running:
    """Start the trainer as a group of processes that ends with this one.

    Raises:
        UserError: the training takes other machines too; the sentence holds the command for them.
    """
    launch.refuse_machines(training.distributed, training.arguments)
    command = launch.command(training.distributed, [*training.arguments, "--parent-pid", str(os.getpid())])
    return ProcessGroup(command, training.environment, tell)
