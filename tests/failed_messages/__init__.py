"""
Every store keeps the same promises; the one on disk keeps them through crashes, forks and damage.
"""
