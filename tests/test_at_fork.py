"""
What must be new in a forked child is, as long as it lives.
"""

from __future__ import annotations

from tests.subprocesses import run_script


def test_a_living_object_is_renewed_and_a_dead_one_is_not_kept() -> None:
    """
    In the child alone, and without holding the object in memory.
    """
    run_script(
        """
        import gc, os, weakref
        from safepulsar.at_fork import renew_in_child

        class Counter:
            def __init__(self):
                self.renewed = 0
                renew_in_child(self.renew)

            def renew(self):
                self.renewed += 1

        living, dead = Counter(), Counter()
        gone = weakref.ref(dead)
        del dead
        gc.collect()
        assert gone() is None
        pid = os.fork()
        if pid == 0:
            os._exit(0 if living.renewed == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert living.renewed == 0
        """,
        timeout_seconds=30,
    ).check()
