"""
The cluster as the rest sees it: clients, producers, and what their answers mean.
"""
