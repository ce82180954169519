-- What is to be told to other services: one reader of a job's events for each of its integrations.

CREATE TABLE deliveries (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    job_id          TEXT NOT NULL REFERENCES jobs(id),
    position        INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    config_json     TEXT NOT NULL,
    external_json   TEXT,
    after_seq       INTEGER NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('pending', 'done', 'failed')),
    failures        INTEGER NOT NULL,
    is_uncertain    INTEGER NOT NULL CHECK (is_uncertain IN (0, 1)),
    next_ms         INTEGER NOT NULL,
    created_ms      INTEGER NOT NULL,
    UNIQUE (job_id, position)
) STRICT;
CREATE INDEX deliveries_pending ON deliveries(next_ms) WHERE state = 'pending';
