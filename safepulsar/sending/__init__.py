"""
What a sender is made of, from the call to the queue.
"""
