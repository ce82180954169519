-- Usage is counted by model, too: jobs under the model that they train, answers under the one that gave them. What was counted
-- before has no model: ''.
CREATE TABLE usage_of_models (
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    day             INTEGER NOT NULL,
    model           TEXT NOT NULL,
    jobs            INTEGER NOT NULL DEFAULT 0,
    trained_tokens  INTEGER NOT NULL DEFAULT 0,
    trained_steps   INTEGER NOT NULL DEFAULT 0,
    device_ms       INTEGER NOT NULL DEFAULT 0,
    model_requests  INTEGER NOT NULL DEFAULT 0,
    input_tokens    INTEGER NOT NULL DEFAULT 0,
    output_tokens   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (organization_id, day, project_id, model)
) STRICT, WITHOUT ROWID;

INSERT INTO usage_of_models SELECT organization_id, project_id, day, '', jobs, trained_tokens, trained_steps, device_ms, model_requests,
    input_tokens, output_tokens FROM usage_days;

DROP TRIGGER jobs_begin_use;
DROP TRIGGER jobs_use;
DROP TABLE usage_days;
ALTER TABLE usage_of_models RENAME TO usage_days;

CREATE TRIGGER jobs_begin_use AFTER INSERT ON jobs
BEGIN
    INSERT INTO usage_days(organization_id, project_id, day, model, jobs)
    VALUES (NEW.organization_id, NEW.project_id, CAST(strftime('%s', 'now') AS INTEGER) / 86400, NEW.model, 1)
    ON CONFLICT(organization_id, project_id, day, model) DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_use AFTER UPDATE OF trained_tokens, trained_steps, device_ms ON jobs
WHEN NEW.trained_tokens <> OLD.trained_tokens OR NEW.trained_steps <> OLD.trained_steps OR NEW.device_ms <> OLD.device_ms
BEGIN
    INSERT INTO usage_days(organization_id, project_id, day, model, trained_tokens, trained_steps, device_ms)
    VALUES (NEW.organization_id, NEW.project_id, CAST(strftime('%s', 'now') AS INTEGER) / 86400, NEW.model,
            NEW.trained_tokens - OLD.trained_tokens, NEW.trained_steps - OLD.trained_steps, NEW.device_ms - OLD.device_ms)
    ON CONFLICT(organization_id, project_id, day, model) DO UPDATE SET trained_tokens = trained_tokens + excluded.trained_tokens,
        trained_steps = trained_steps + excluded.trained_steps, device_ms = device_ms + excluded.device_ms;
END;
