-- Files that a job leaves besides its checkpoints': a JSON list of ids.
ALTER TABLE jobs ADD COLUMN result_files_json TEXT;
