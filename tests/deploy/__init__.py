"""
What is under `deploy/`, checked by the programs that it is for.
"""
