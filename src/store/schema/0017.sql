-- Who wrote what, over the API. Old rows go by age and number.
CREATE TABLE audit_logs (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    type            TEXT NOT NULL,
    key_id          TEXT,
    object_id       TEXT,
    method          TEXT NOT NULL,
    path            TEXT NOT NULL,
    status          INTEGER NOT NULL,
    request_id      TEXT NOT NULL,
    address         TEXT NOT NULL,
    created_ms      INTEGER NOT NULL
) STRICT;
CREATE INDEX audit_logs_of_organization ON audit_logs(organization_id, number);
CREATE INDEX audit_logs_by_age ON audit_logs(created_ms);
