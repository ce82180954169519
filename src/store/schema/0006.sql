-- Which further projects of the organisation may use a model; project_id is the model's own.
CREATE TABLE checkpoint_permissions (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    model_name      TEXT NOT NULL REFERENCES models(name) ON DELETE CASCADE,
    granted_to      TEXT NOT NULL,
    created_ms      INTEGER NOT NULL,
    UNIQUE (model_name, granted_to),
    FOREIGN KEY (organization_id, granted_to) REFERENCES projects(organization_id, id)
) STRICT;
CREATE INDEX checkpoint_permissions_of_project ON checkpoint_permissions(organization_id, granted_to);
