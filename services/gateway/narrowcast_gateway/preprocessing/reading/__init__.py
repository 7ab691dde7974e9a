"""From the bytes of a Word document to its lines of text, without trusting the file."""

from narrowcast_gateway.preprocessing.reading.documents import read_document
from narrowcast_gateway.preprocessing.reading.sniffing import Format, sniff
from narrowcast_gateway.preprocessing.reading.text import DocumentText

__all__ = ["DocumentText", "Format", "read_document", "sniff"]
