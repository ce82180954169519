-- What a project may use at most (0: no limit), and its place in the round of the queue.
ALTER TABLE projects ADD COLUMN storage_bytes_max INTEGER NOT NULL DEFAULT 0;
ALTER TABLE projects ADD COLUMN jobs_max INTEGER NOT NULL DEFAULT 0;
ALTER TABLE projects ADD COLUMN running_jobs_max INTEGER NOT NULL DEFAULT 0;
ALTER TABLE projects ADD COLUMN requests_per_minute_max INTEGER NOT NULL DEFAULT 0;
ALTER TABLE projects ADD COLUMN last_turn INTEGER NOT NULL DEFAULT 0;
