"""What a report consists of, and its media: HTML and Markdown."""
