-- The few jobs that wait for their weights are looked for after every change of a job.

CREATE INDEX jobs_to_fetch ON jobs(number) WHERE base_json IS NOT NULL;
