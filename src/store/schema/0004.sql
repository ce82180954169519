-- Answers to requests with an Idempotency-Key, for a day. status 0: the request has begun; resource_id is what it makes.

CREATE TABLE idempotency_keys (
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    key             TEXT NOT NULL,
    fingerprint     TEXT NOT NULL,
    resource_id     TEXT NOT NULL,
    status          INTEGER NOT NULL,
    body            TEXT,
    created_ms      INTEGER NOT NULL,
    PRIMARY KEY (organization_id, project_id, key)
) STRICT;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys(created_ms);
