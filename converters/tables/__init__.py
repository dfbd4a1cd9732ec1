"""What maps to what: one file a family, one `Table` for each library's layout of it."""
