"""Jobs: the record is the truth, the queue is a hint.

``records`` says what a job is and which transitions are legal, ``store`` keeps records in
Redis, ``queue`` carries ids through Celery, ``running`` executes one job under a lease,
``reaper`` picks up what lost its lease.
"""
