"""
From the queue of a producer to the broker and back: in order, in groups, again if need be.
"""
