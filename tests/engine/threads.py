"""The threads of a run."""

import threading
import time


def threads_end():
    """True once no thread of the engine is left; they end soon after they are told to."""
    until = time.monotonic() + 10
    while any(thread.name.startswith(("anovl-decode", "anovl-finish", "anovl-score")) for thread in threading.enumerate()):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True
