"""Limits on one document. A hospital report is 20 to 300 kB; pictures make it a few MB."""

MEBIBYTE = 1024 * 1024

MAX_DOCUMENT_BYTES = 32 * MEBIBYTE
MAX_DOCX_MEMBERS = 5_000
MAX_DOCX_UNPACKED_BYTES = 256 * MEBIBYTE
# One XML part takes about ten times its size in memory once parsed.
MAX_XML_PART_BYTES = 24 * MEBIBYTE
MAX_DOCX_RATIO = 150.0
DOCX_RATIO_FLOOR_BYTES = 16 * MEBIBYTE
# A full-length novel is about 1.5 million characters.
MAX_TEXT_CHARACTERS = 2_000_000

# Outer converters: LibreOffice starts cold in 1.4 s and needs half a second a document.
CONVERSION_SECONDS = 60.0
CONVERSION_CPU_SECONDS = 45
CONVERSION_MEMORY_BYTES = 3 * 1024 * MEBIBYTE
CONVERSION_OUTPUT_BYTES = 64 * MEBIBYTE
# The pure-Python second reader of .doc: 3 ms a file, so 10 s is only met by hostile ones.
PYTHON_READER_SECONDS = 10.0
PYTHON_READER_MEMORY_BYTES = 512 * MEBIBYTE
