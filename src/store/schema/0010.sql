-- What each project used, per day of UTC (days since 1970), counted by the database in the transaction that does it. It stays when
-- jobs, files and models go.
CREATE TABLE usage_days (
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    day             INTEGER NOT NULL,
    jobs            INTEGER NOT NULL DEFAULT 0,
    trained_tokens  INTEGER NOT NULL DEFAULT 0,
    trained_steps   INTEGER NOT NULL DEFAULT 0,
    device_ms       INTEGER NOT NULL DEFAULT 0,
    model_requests  INTEGER NOT NULL DEFAULT 0,
    input_tokens    INTEGER NOT NULL DEFAULT 0,
    output_tokens   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (organization_id, project_id, day)
) STRICT, WITHOUT ROWID;

-- Bytes stored at the end of the day; a day without a row has those of the last one before it.
CREATE TABLE storage_days (
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    day             INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    PRIMARY KEY (organization_id, project_id, day)
) STRICT, WITHOUT ROWID;

INSERT INTO storage_days SELECT organization_id, project_id, CAST(strftime('%s', 'now') AS INTEGER) / 86400, SUM(bytes)
FROM (SELECT organization_id, project_id, bytes FROM files UNION ALL
      SELECT organization_id, project_id, bytes FROM upload_parts) GROUP BY organization_id, project_id;

-- device_ms is the time that attempts held the device, counted up to device_until_ms (0: no attempt at work).
ALTER TABLE jobs ADD COLUMN device_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN device_until_ms INTEGER NOT NULL DEFAULT 0;

UPDATE jobs SET device_until_ms = CAST(strftime('%s', 'now') AS INTEGER) * 1000 WHERE state = 'running';

CREATE TRIGGER jobs_begin_use AFTER INSERT ON jobs
BEGIN
    INSERT INTO usage_days(organization_id, project_id, day, jobs)
    VALUES (NEW.organization_id, NEW.project_id, CAST(strftime('%s', 'now') AS INTEGER) / 86400, 1)
    ON CONFLICT(organization_id, project_id, day) DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_use AFTER UPDATE OF trained_tokens, trained_steps, device_ms ON jobs
WHEN NEW.trained_tokens <> OLD.trained_tokens OR NEW.trained_steps <> OLD.trained_steps OR NEW.device_ms <> OLD.device_ms
BEGIN
    INSERT INTO usage_days(organization_id, project_id, day, trained_tokens, trained_steps, device_ms)
    VALUES (NEW.organization_id, NEW.project_id, CAST(strftime('%s', 'now') AS INTEGER) / 86400,
            NEW.trained_tokens - OLD.trained_tokens, NEW.trained_steps - OLD.trained_steps, NEW.device_ms - OLD.device_ms)
    ON CONFLICT(organization_id, project_id, day) DO UPDATE SET trained_tokens = trained_tokens + excluded.trained_tokens,
        trained_steps = trained_steps + excluded.trained_steps, device_ms = device_ms + excluded.device_ms;
END;

CREATE TRIGGER files_begin_use AFTER INSERT ON files
BEGIN
    INSERT INTO storage_days(organization_id, project_id, day, bytes)
    VALUES (NEW.organization_id, NEW.project_id, CAST(strftime('%s', 'now') AS INTEGER) / 86400, NEW.bytes + COALESCE((
        SELECT bytes FROM storage_days WHERE organization_id = NEW.organization_id AND project_id = NEW.project_id
        ORDER BY day DESC LIMIT 1), 0))
    ON CONFLICT(organization_id, project_id, day) DO UPDATE SET bytes = excluded.bytes;
END;
CREATE TRIGGER files_end_use AFTER DELETE ON files
BEGIN
    INSERT INTO storage_days(organization_id, project_id, day, bytes)
    VALUES (OLD.organization_id, OLD.project_id, CAST(strftime('%s', 'now') AS INTEGER) / 86400, COALESCE((
        SELECT bytes FROM storage_days WHERE organization_id = OLD.organization_id AND project_id = OLD.project_id
        ORDER BY day DESC LIMIT 1), 0) - OLD.bytes)
    ON CONFLICT(organization_id, project_id, day) DO UPDATE SET bytes = excluded.bytes;
END;
CREATE TRIGGER parts_begin_use AFTER INSERT ON upload_parts
BEGIN
    INSERT INTO storage_days(organization_id, project_id, day, bytes)
    VALUES (NEW.organization_id, NEW.project_id, CAST(strftime('%s', 'now') AS INTEGER) / 86400, NEW.bytes + COALESCE((
        SELECT bytes FROM storage_days WHERE organization_id = NEW.organization_id AND project_id = NEW.project_id
        ORDER BY day DESC LIMIT 1), 0))
    ON CONFLICT(organization_id, project_id, day) DO UPDATE SET bytes = excluded.bytes;
END;
CREATE TRIGGER parts_end_use AFTER DELETE ON upload_parts
BEGIN
    INSERT INTO storage_days(organization_id, project_id, day, bytes)
    VALUES (OLD.organization_id, OLD.project_id, CAST(strftime('%s', 'now') AS INTEGER) / 86400, COALESCE((
        SELECT bytes FROM storage_days WHERE organization_id = OLD.organization_id AND project_id = OLD.project_id
        ORDER BY day DESC LIMIT 1), 0) - OLD.bytes)
    ON CONFLICT(organization_id, project_id, day) DO UPDATE SET bytes = excluded.bytes;
END;
