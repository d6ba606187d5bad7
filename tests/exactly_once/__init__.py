"""
Numbers that only rise, and what is found in the topic.
"""
