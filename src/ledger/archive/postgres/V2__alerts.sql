-- One row for each rule and subject that an alert has fired for.
CREATE TABLE nightporter_ledger.alerts (
    tenant text NOT NULL,
    id text COLLATE "C" NOT NULL,
    rule text NOT NULL,
    subject_kind text NOT NULL,
    subject text NOT NULL,
    firing bool NOT NULL,
    -- Since when it has been in its state, and when that was written.
    since int8 NOT NULL,
    changed int8 NOT NULL,
    changes int8 NOT NULL,
    value int8 NOT NULL,
    detail text NOT NULL,
    silenced_until int8,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, rule, subject_kind, subject)
);

CREATE INDEX alerts_by_time ON nightporter_ledger.alerts (tenant, since, id);
CREATE INDEX alerts_firing ON nightporter_ledger.alerts (tenant, since, id) WHERE firing;
CREATE INDEX alerts_resolved ON nightporter_ledger.alerts (tenant, changed) WHERE NOT firing;

CREATE TABLE nightporter_ledger.alert_history (
    tenant text NOT NULL,
    alert text COLLATE "C" NOT NULL,
    n int8 NOT NULL,
    at int8 NOT NULL,
    firing bool NOT NULL,
    value int8 NOT NULL,
    detail text NOT NULL,
    silenced bool NOT NULL,
    writer int8 NOT NULL,
    PRIMARY KEY (tenant, alert, n),
    FOREIGN KEY (tenant, alert) REFERENCES nightporter_ledger.alerts ON DELETE CASCADE
);

-- The processes that observe something, each for as long as it says so again.
CREATE TABLE nightporter_ledger.alert_writers (
    tenant text NOT NULL,
    writer int8 NOT NULL,
    expires_at int8 NOT NULL,
    PRIMARY KEY (tenant, writer)
);

CREATE TABLE nightporter_ledger.alert_observations (
    tenant text NOT NULL,
    writer int8 NOT NULL,
    rule text NOT NULL,
    subject_kind text NOT NULL,
    subject text NOT NULL,
    since int8 NOT NULL,
    value int8 NOT NULL,
    detail text NOT NULL,
    PRIMARY KEY (tenant, writer, rule, subject_kind, subject),
    FOREIGN KEY (tenant, writer) REFERENCES nightporter_ledger.alert_writers ON DELETE CASCADE
);
