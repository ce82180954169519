-- Where a job runs: what it asked for ("cpu", "cuda": any GPU, "cuda:1"; NULL: cpu), and what its newest attempt has or had.
ALTER TABLE jobs ADD COLUMN device TEXT;
ALTER TABLE jobs ADD COLUMN placed_on TEXT;
