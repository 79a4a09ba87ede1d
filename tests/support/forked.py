"""Runs to be killed: forks of this process, which has imported all that takes long."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


def start(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """A process that runs `target`; not for training, which autograd cannot do after a fork."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process
