"""The processes that train together, as a launcher has started them."""

from accelerate import Accelerator

from ..launcher import RELAUNCH, launched_process, number_in_environment

__all__ = ["join_processes", "single_process"]


def join_processes() -> Accelerator:
    """Find the other processes, where a launcher's variables say that there are some.

    Raises:
        ValueError: the variables are wrong, or the others are not found.
    """
    rank, processes = launched_process()
    for name in ("LOCAL_RANK", "MASTER_PORT"):
        number_in_environment(name, 0)
    try:
        return Accelerator()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, RuntimeError) and "MASTER_" not in reason:
            raise
        raise ValueError(
            f"this is process {rank} of {processes} and does not find the others "
            f"({reason}): {RELAUNCH}"
        ) from error


def single_process() -> Accelerator:
    """Return the accelerator of a trainer that does not divide its batches.

    Raises:
        ValueError: a launcher started several processes, or asked for gradients that are
            accumulated over parts of a batch.
    """
    _, processes = launched_process()
    if processes > 1:
        raise ValueError(
            f"this trainer works in one process, but WORLD_SIZE is {processes} in the "
            "environment: start it without torchrun or accelerate launch"
        )
    accelerator = join_processes()
    if accelerator.gradient_accumulation_steps > 1:
        raise ValueError(
            "this trainer computes a batch at once, but accelerate is to accumulate "
            f"gradients over {accelerator.gradient_accumulation_steps} parts: start it "
            "without accelerate launch"
        )
    return accelerator
