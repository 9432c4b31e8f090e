"""Main memory that holds one version of the weights, and that processes of a machine can share."""

import mmap
import os
import weakref

import torch


class Region:
    """Zeroed bytes, uint8 [nbytes], in an anonymous file: it takes main memory, and no name.

    ``path`` is where other processes of this machine open it, for as long as this object lives.
    """

    def __init__(self, nbytes: int, *, path: str | None = None) -> None:
        """path: of another process's region; by default a new one. Raises OSError."""
        fd = os.memfd_create("weights") if path is None else os.open(path, os.O_RDWR)
        weakref.finalize(self, os.close, fd)
        if path is None:
            os.ftruncate(fd, nbytes)
        elif os.fstat(fd).st_size != nbytes:
            raise OSError(f"{path} is not a region of {nbytes} bytes")
        self.path = path or f"/proc/{os.getpid()}/fd/{fd}"
        self.flat = torch.empty(0, dtype=torch.uint8)
        if nbytes:
            self.flat = torch.frombuffer(mmap.mmap(fd, nbytes), dtype=torch.uint8)

    def pin(self) -> None:
        """Let GPUs of this process copy to and from it directly, and without being waited for."""
        address, nbytes = self.flat.data_ptr(), self.flat.numel()
        if not nbytes:
            return
        cuda = torch.cuda.cudart()
        if int(error := cuda.cudaHostRegister(address, nbytes, 0)):
            raise OSError(f"CUDA can't pin {nbytes} bytes of main memory: {error}")
        weakref.finalize(self, cuda.cudaHostUnregister, address)
