"""What routes do to requests and responses on their way: one file a filter."""
