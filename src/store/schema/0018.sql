-- A delivery may be due without new events: to say that the job is still at work, or to finish what a sender began.

ALTER TABLE deliveries ADD COLUMN wake_ms INTEGER NOT NULL DEFAULT 0;
