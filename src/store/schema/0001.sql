-- The first schema. @STATES@, @MOVES@ and @WANTS@ are filled in from store/state.h.
-- number orders the rows of a table as they were created; lists page by it.

CREATE TABLE organizations (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE projects (
    organization_id TEXT NOT NULL REFERENCES organizations(id),
    id              TEXT NOT NULL,
    name            TEXT NOT NULL,
    profile         TEXT NOT NULL CHECK (profile IN ('nebius', 'openai')),
    created_ms      INTEGER NOT NULL,
    PRIMARY KEY (organization_id, id)
) STRICT;

CREATE TABLE api_keys (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    scopes          TEXT NOT NULL,
    hash            TEXT NOT NULL, -- SHA-256 of the whole key, hexadecimal
    created_ms      INTEGER NOT NULL,
    last_used_ms    INTEGER NOT NULL DEFAULT 0,
    revoked_ms      INTEGER NOT NULL DEFAULT 0,
    FOREIGN KEY (organization_id, project_id) REFERENCES projects(organization_id, id)
) STRICT;
CREATE INDEX api_keys_of_project ON api_keys(organization_id, project_id, number);

CREATE TABLE files (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    filename        TEXT NOT NULL,
    purpose         TEXT NOT NULL,
    bytes           INTEGER NOT NULL CHECK (bytes >= 0),
    sha256          TEXT,
    status          TEXT NOT NULL CHECK (status IN ('uploaded', 'processed', 'error')),
    status_details  TEXT,
    kind            TEXT,
    line_count      INTEGER NOT NULL,
    bad_line_count  INTEGER NOT NULL,
    details_json    TEXT,
    checkpoint_id   TEXT,
    created_ms      INTEGER NOT NULL,
    expires_ms      INTEGER NOT NULL,
    FOREIGN KEY (organization_id, project_id) REFERENCES projects(organization_id, id)
) STRICT;
CREATE INDEX files_of_project ON files(organization_id, project_id, number);

CREATE TABLE jobs (
    number               INTEGER PRIMARY KEY AUTOINCREMENT,
    id                   TEXT NOT NULL UNIQUE,
    organization_id      TEXT NOT NULL,
    project_id           TEXT NOT NULL,
    state                TEXT NOT NULL CHECK (state IN (@STATES@)),
    wanted               TEXT NOT NULL CHECK (wanted IN (@WANTS@)),
    model                TEXT NOT NULL,
    model_path           TEXT NOT NULL,
    output_name          TEXT NOT NULL,
    fine_tuned_model     TEXT,
    training_file        TEXT NOT NULL,
    validation_file      TEXT,
    suffix               TEXT,
    seed                 INTEGER NOT NULL,
    hyperparameters_json TEXT NOT NULL,
    method_json          TEXT,
    integrations_json    TEXT,
    from_checkpoint_json TEXT,
    metadata_json        TEXT,
    tags_json            TEXT,
    request_json         TEXT,
    priority             INTEGER NOT NULL,
    memory_bytes         INTEGER NOT NULL,
    error_code           TEXT,
    error_message        TEXT,
    error_param          TEXT,
    trained_tokens       INTEGER NOT NULL,
    trained_steps        INTEGER NOT NULL,
    total_steps          INTEGER NOT NULL,
    created_ms           INTEGER NOT NULL,
    started_ms           INTEGER NOT NULL,
    finished_ms          INTEGER NOT NULL,
    estimated_finish_ms  INTEGER NOT NULL,
    attempt              INTEGER NOT NULL,
    failed_attempts      INTEGER NOT NULL,
    recovery_step        INTEGER NOT NULL,
    events_offset        INTEGER NOT NULL,
    pid                  INTEGER NOT NULL,
    pid_start_time       INTEGER NOT NULL,
    boot_id              TEXT,
    FOREIGN KEY (organization_id, project_id) REFERENCES projects(organization_id, id)
) STRICT;
CREATE INDEX jobs_of_project ON jobs(organization_id, project_id, number);
CREATE INDEX jobs_in_queue ON jobs(priority DESC, number) WHERE state = 'queued';
CREATE INDEX jobs_active ON jobs(number) WHERE state IN ('starting', 'running', 'cancelling');

CREATE TRIGGER jobs_begin_queued BEFORE INSERT ON jobs WHEN NEW.state <> 'queued'
BEGIN
    SELECT RAISE(ABORT, 'a job begins as queued');
END;
CREATE TRIGGER jobs_move BEFORE UPDATE OF state ON jobs
WHEN OLD.state <> NEW.state AND OLD.state || '>' || NEW.state NOT IN (@MOVES@)
BEGIN
    SELECT RAISE(ABORT, 'the state of the job does not allow this');
END;

CREATE TABLE job_events (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    job_id          TEXT NOT NULL REFERENCES jobs(id),
    id              TEXT NOT NULL UNIQUE,
    seq             INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    code            TEXT NOT NULL,
    step            INTEGER NOT NULL,
    attempt         INTEGER NOT NULL,
    level           TEXT NOT NULL CHECK (level IN ('info', 'warn', 'error')),
    message         TEXT NOT NULL,
    type            TEXT NOT NULL CHECK (type IN ('message', 'metrics')),
    data_json       TEXT,
    created_ms      INTEGER NOT NULL,
    UNIQUE (job_id, seq),
    UNIQUE (job_id, kind, code, step)
) STRICT;

CREATE TABLE checkpoints (
    number            INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id   TEXT NOT NULL,
    project_id        TEXT NOT NULL,
    id                TEXT NOT NULL UNIQUE,
    job_id            TEXT NOT NULL REFERENCES jobs(id),
    step              INTEGER NOT NULL,
    model_name        TEXT NOT NULL,
    path              TEXT NOT NULL,
    metrics_json      TEXT NOT NULL,
    result_files_json TEXT NOT NULL,
    is_final          INTEGER NOT NULL CHECK (is_final IN (0, 1)),
    created_ms        INTEGER NOT NULL,
    UNIQUE (job_id, step)
) STRICT;

CREATE TABLE models (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    name            TEXT NOT NULL UNIQUE,
    job_id          TEXT NOT NULL REFERENCES jobs(id),
    checkpoint_id   TEXT NOT NULL,
    kind            TEXT NOT NULL CHECK (kind IN ('full', 'lora')),
    base_model      TEXT NOT NULL,
    base_path       TEXT NOT NULL,
    path            TEXT NOT NULL,
    created_ms      INTEGER NOT NULL
) STRICT;
CREATE INDEX models_of_project ON models(organization_id, project_id, number);
