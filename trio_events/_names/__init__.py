"""Names, patterns, routing and permissions: pure, without trio."""
