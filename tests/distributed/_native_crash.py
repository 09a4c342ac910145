"""Crashes in a thread that Python does not know: strlen of the address 8."""

import ctypes
import time

import torch

if __name__ == "__main__":
    torch.zeros(1)
    time.sleep(1)  # _native_stacks looks every .05 s
    library, thread = ctypes.CDLL(None), ctypes.c_ulong()
    library.pthread_create(ctypes.byref(thread), None, ctypes.cast(library.strlen, ctypes.c_void_p), ctypes.c_void_p(8))
    time.sleep(60)
