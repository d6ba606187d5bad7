"""
Pictures of pages for the docs, made by a browser without a screen.
"""
