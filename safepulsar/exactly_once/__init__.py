"""
Numbers messages durably, and finds out which of them are in the topic.
"""
