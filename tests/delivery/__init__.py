"""
From the queue to the broker and back: groups, order, recovery, stopped lanes.
"""
