"""From uploaded Word documents to de-identified dataset rows; no HTTP, no stores."""
