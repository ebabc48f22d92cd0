"""Reports of studies of ROUGE-L against training examples per task."""
