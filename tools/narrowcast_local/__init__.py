"""The whole system on one machine, with neither root nor Docker.

``stack`` runs every real part on loopback, ``samples`` makes reports about invented people,
``demo`` drives the whole line over HTTP. Development, tests and the demo use it; a hospital
runs containers.
"""
