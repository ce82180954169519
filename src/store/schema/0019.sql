-- Weights that a job waits for until they are fetched, as JSON (src/hub/fetcher.h); NULL: they are here.

ALTER TABLE jobs ADD COLUMN base_json TEXT;
