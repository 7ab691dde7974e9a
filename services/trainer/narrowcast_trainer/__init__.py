"""The GPU worker: takes training jobs, runs each as a process of its own, publishes adapters.

``worker`` is the Celery side and never imports torch. ``process`` starts and watches one
training process; ``run`` and everything it imports (``data``, ``engines``, ``checkpoints``,
``publish``) is that process. The two meet in ``protocol``.
"""
