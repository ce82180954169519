-- How many checkpoints a job keeps (0: all), and those that are on their way out: nobody sees them any more.
ALTER TABLE jobs ADD COLUMN keep_checkpoints INTEGER NOT NULL DEFAULT 0;
ALTER TABLE checkpoints ADD COLUMN is_leaving INTEGER NOT NULL DEFAULT 0 CHECK (is_leaving IN (0, 1));
CREATE INDEX checkpoints_leaving ON checkpoints(job_id) WHERE is_leaving = 1;
CREATE INDEX files_of_checkpoint ON files(checkpoint_id) WHERE checkpoint_id IS NOT NULL;
