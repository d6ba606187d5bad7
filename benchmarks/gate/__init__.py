"""
Whether a change made it slower: ratios to the raw client in one run, and counts that no machine changes.
"""
