-- In which order jobs were claimed: the number of the turn that each began with.
ALTER TABLE jobs ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
