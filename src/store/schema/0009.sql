-- Secrets, sealed under a key that is not here. owner: '' for the project's own, else the id of the job that brought it.

CREATE TABLE secrets (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    owner           TEXT NOT NULL,
    name            TEXT NOT NULL,
    key_id          TEXT NOT NULL,
    sealed          BLOB NOT NULL,
    created_ms      INTEGER NOT NULL,
    updated_ms      INTEGER NOT NULL,
    UNIQUE (organization_id, project_id, owner, name),
    FOREIGN KEY (organization_id, project_id) REFERENCES projects(organization_id, id)
) STRICT;
