"""Why an evaluation ended: by a fault of the machine or of its own, or with the search."""

import re

#: how the reason begins of what ran when the search was over
CUT_SHORT = "the search had ended: "

# What says so in a reason of the journal; torch and Ray have no types for most of it.
_OF_THE_MACHINE = re.compile(
    r"^worker ?died|\bout of memory\b|^StorageError\b|No space left on device"
    r"|Found no NVIDIA driver|NVIDIA driver on your system|not compiled with CUDA"
    r"|CUDA driver|CUDA error|CUDNN_STATUS|CUBLAS_STATUS|NCCL error|No CUDA GPUs",
    re.IGNORECASE,
)
# A label or an index beyond its range, which CUDA calls an error of its own.
_OF_THE_NETWORK = re.compile(r"device-side assert")


def of_the_machine(reason: str | None) -> bool:
    """Return whether a failure may be gone once the machine is mended: a driver, memory, a disk.

    Args:
        reason: as the journal has it.
    """
    text = reason or ""
    return bool(_OF_THE_MACHINE.search(text)) and not _OF_THE_NETWORK.search(text)


def was_cut_short(reason: str | None) -> bool:
    """Return whether an evaluation goes on once the search does.

    Args:
        reason: as the journal has it.
    """
    return (reason or "").startswith(CUT_SHORT)
