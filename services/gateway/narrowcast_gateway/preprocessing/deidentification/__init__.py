"""Removing personal data from the parts of a report that are kept."""

from narrowcast_gateway.preprocessing.deidentification.placeholders import PLACEHOLDERS, Kind, Span
from narrowcast_gateway.preprocessing.deidentification.redaction import Deidentifier

__all__ = ["PLACEHOLDERS", "Deidentifier", "Kind", "Span"]
