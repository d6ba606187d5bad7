"""
The tests; a package, so that they share what stands beside them.
"""
