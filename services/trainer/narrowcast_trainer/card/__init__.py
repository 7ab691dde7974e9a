"""The training card: from the record of a run to JSON, Markdown, a table of steps and a figure."""
