"""The learner's processes."""

import os

# Before torch is loaded: its store for the weights' groups writes 25 lines about every connection
# that is not one of its clients, and a stranger should not be able to fill the disk.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
