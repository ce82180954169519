-- Endpoints that hear how a project's jobs ended; their secrets are rows of secrets with the endpoint's id as owner.
CREATE TABLE webhook_endpoints (
    number              INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id     TEXT NOT NULL,
    project_id          TEXT NOT NULL,
    id                  TEXT NOT NULL UNIQUE,
    name                TEXT NOT NULL,
    url                 TEXT NOT NULL,
    event_types_json    TEXT NOT NULL,
    is_enabled          INTEGER NOT NULL CHECK (is_enabled IN (0, 1)),
    secret_hint         TEXT NOT NULL,
    old_secret_until_ms INTEGER NOT NULL,
    created_ms          INTEGER NOT NULL,
    updated_ms          INTEGER NOT NULL,
    FOREIGN KEY (organization_id, project_id) REFERENCES projects(organization_id, id)
) STRICT;
CREATE INDEX webhook_endpoints_of_project ON webhook_endpoints(organization_id, project_id, number);

-- Whatever ends a job, its endpoints hear of it. Positions of webhooks lie behind those of a job's own integrations. Without JSON's
-- functions: SQLite does not trust them in a trigger.
CREATE TRIGGER jobs_tell_webhooks AFTER UPDATE OF state ON jobs
WHEN NEW.state <> OLD.state AND NEW.state IN ('succeeded', 'failed', 'cancelled')
BEGIN
    INSERT INTO deliveries(organization_id, project_id, job_id, position, kind, config_json, after_seq, state, failures, is_uncertain,
                           next_ms, created_ms)
    SELECT organization_id, project_id, NEW.id, 1000 + number, 'webhook',
           '{"endpoint":"' || id || '","message":"wh_' || lower(hex(randomblob(16))) || '","event":"evt_' || substr(NEW.id, 7)
           || '","type":"fine_tuning.job.' || NEW.state || '"}',
           0, 'pending', 0, 0, 0, CAST(strftime('%s', 'now') AS INTEGER) * 1000
    FROM webhook_endpoints
    WHERE organization_id = NEW.organization_id AND project_id = NEW.project_id AND is_enabled
          AND instr(event_types_json, '"fine_tuning.job.' || NEW.state || '"') > 0;
END;
