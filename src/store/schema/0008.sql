-- Whether the run directory of a job may hold what nobody needs once it has ended: recovery points, unfinished files.
ALTER TABLE jobs ADD COLUMN has_leftovers INTEGER NOT NULL DEFAULT 1 CHECK (has_leftovers IN (0, 1));
CREATE INDEX jobs_to_clean ON jobs(number) WHERE has_leftovers = 1 AND state IN ('succeeded', 'failed', 'cancelled');
