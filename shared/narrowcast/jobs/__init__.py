"""Jobs: the record is the truth, the queue is a hint.

``records`` says what a job is and which transitions are legal, ``schedule`` when it may run and
in what order, ``store`` keeps records in Redis, ``line`` hands them out, ``queue`` carries hints
through Celery, ``running`` executes one job under a lease, ``reaper`` picks up what lost its lease.
"""
