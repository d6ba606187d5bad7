"""
A service that takes orders, in FastAPI and in Flask, with an endpoint for each way to send; and what puts load on it.
"""
