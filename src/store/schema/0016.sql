-- 0: it does not expire. profile NULL: the project's.
ALTER TABLE api_keys ADD COLUMN expires_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN profile TEXT CHECK (profile IN ('nebius', 'openai'));
