"""The GPU worker: takes training jobs and exports, runs each as a process of its own, publishes adapters.

``worker`` is the Celery side and never imports torch. ``child`` starts a job's process, ``process`` watches
it. ``run`` and all that it imports (``checks``, ``data``, ``engines``, ``checkpoints``, ``publish``) is that
process for a training, ``rank`` one beside it for each further GPU, ``export`` that of an export. The two
sides meet in ``protocol``.
"""
