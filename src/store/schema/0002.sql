-- Uploads: large files that arrive in parts.

CREATE TABLE uploads (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    filename        TEXT NOT NULL,
    purpose         TEXT NOT NULL,
    mime_type       TEXT NOT NULL,
    bytes           INTEGER NOT NULL CHECK (bytes >= 0),
    status          TEXT NOT NULL CHECK (status IN ('pending', 'completed', 'cancelled', 'expired')),
    file_id         TEXT,
    file_seconds    INTEGER NOT NULL,
    created_ms      INTEGER NOT NULL,
    expires_ms      INTEGER NOT NULL,
    FOREIGN KEY (organization_id, project_id) REFERENCES projects(organization_id, id)
) STRICT;
CREATE INDEX uploads_pending ON uploads(expires_ms) WHERE status = 'pending';

CREATE TABLE upload_parts (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    upload_id       TEXT NOT NULL REFERENCES uploads(id),
    bytes           INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT;
CREATE INDEX upload_parts_of_upload ON upload_parts(upload_id, number);

CREATE INDEX files_that_expire ON files(expires_ms) WHERE expires_ms > 0;
