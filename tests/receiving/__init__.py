"""
The receiving side: the buffer and the deduplicator against plain models, the receiver against crashes and brokers.
"""
