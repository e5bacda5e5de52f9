"""What the processes of ``test_killed_jobs`` run: a job through the command line, in small batches, that tells how far it is."""

from __future__ import annotations

import os
import sys
import time
from functools import partial

from jobs.job_cases import CountingFunction

from chroma_gpu.cli import main
from chroma_gpu.embed import embed_blocks
from chroma_gpu.jobs import run

BATCH = 200
"""Texts that are embedded and committed at once."""


def work(arguments, told, pause, stuck_at=None):
    """Run the command and end with its exit status.

    told      gets the number of each batch before it is embedded
    pause     seconds that each takes
    stuck_at  the batch that takes for ever
    """
    # What a test process that is interrupted says is nobody's business.
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 2)
    run.embed_blocks = partial(embed_blocks, batch=BATCH)
    call, calls = CountingFunction.__call__, []

    def slow(self, input):
        calls.append(None)
        told.send(len(calls))
        time.sleep(600 if len(calls) == stuck_at else pause)
        return call(self, input)

    CountingFunction.__call__ = slow
    sys.exit(main(arguments))
