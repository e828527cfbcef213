-- One row for each rule and subject that an alert has fired for.
CREATE TABLE alerts (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    rule TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    firing INTEGER NOT NULL,
    -- Since when it has been in its state, and when that was written.
    since INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    changes INTEGER NOT NULL,
    value INTEGER NOT NULL,
    detail TEXT NOT NULL,
    silenced_until INTEGER,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, rule, subject_kind, subject)
) STRICT;

CREATE INDEX alerts_by_time ON alerts (tenant, since, id);
CREATE INDEX alerts_firing ON alerts (tenant, since, id) WHERE firing;
CREATE INDEX alerts_resolved ON alerts (tenant, changed) WHERE NOT firing;

CREATE TABLE alert_history (
    tenant TEXT NOT NULL,
    alert TEXT NOT NULL,
    n INTEGER NOT NULL,
    at INTEGER NOT NULL,
    firing INTEGER NOT NULL,
    value INTEGER NOT NULL,
    detail TEXT NOT NULL,
    silenced INTEGER NOT NULL,
    writer INTEGER NOT NULL,
    PRIMARY KEY (tenant, alert, n),
    FOREIGN KEY (tenant, alert) REFERENCES alerts (tenant, id) ON DELETE CASCADE
) STRICT;

-- The processes that observe something, each for as long as it says so again.
CREATE TABLE alert_writers (
    tenant TEXT NOT NULL,
    writer INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, writer)
) STRICT;

CREATE TABLE alert_observations (
    tenant TEXT NOT NULL,
    writer INTEGER NOT NULL,
    rule TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    since INTEGER NOT NULL,
    value INTEGER NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (tenant, writer, rule, subject_kind, subject),
    FOREIGN KEY (tenant, writer) REFERENCES alert_writers (tenant, writer) ON DELETE CASCADE
) STRICT;
