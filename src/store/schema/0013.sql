-- For /metrics, which counts jobs by state and their attempts.
CREATE INDEX jobs_by_state ON jobs(state, attempt);
