"""Synthetic Russian MRI reports of invented people, as Word documents with their truth."""

from narrowcast_local.samples.documents import write_docx
from narrowcast_local.samples.report import PersonalDatum, Report, generate

__all__ = ["PersonalDatum", "Report", "generate", "write_docx"]
