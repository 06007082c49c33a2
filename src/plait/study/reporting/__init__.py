"""What a study's report says: words, tables, figures and one page, all from the same analysis."""
