"""Every part of the system as a process of one supervisor."""

from narrowcast_local.stack.stack import LocalStack, StackFailed

__all__ = ["LocalStack", "StackFailed"]
