"""Domain library of Narrowcast: what the services agree on, and nothing heavy.

Importing any module here pulls in neither torch nor FastAPI, so that every service,
test and command-line tool can use it. Services import this package and themselves,
never one another.
"""
