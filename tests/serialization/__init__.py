"""
Payloads say exactly what was sent, and what is read of them is what was declared.
"""
