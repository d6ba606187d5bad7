"""
Applications with a sender under the servers that people use: started, driven by concurrent HTTP, stopped, and read back.
"""
