-- Where messages go. `definition` and `secrets` are JSON, written and read as a whole.
CREATE TABLE nightporter_ledger.endpoints (
    tenant text NOT NULL,
    id text NOT NULL,
    origin text NOT NULL CHECK (origin IN ('configuration', 'api')),
    definition text NOT NULL,
    secrets text NOT NULL,
    created int8 NOT NULL,
    failing_since int8,
    disabled_at int8,
    disabled_reason text,
    PRIMARY KEY (tenant, id)
);

-- One event for one endpoint. `lease` is the claim of a sender until `due`.
CREATE TABLE nightporter_ledger.deliveries (
    tenant text NOT NULL,
    endpoint text NOT NULL,
    event text NOT NULL,
    kind text NOT NULL,
    at int8 NOT NULL,
    app text,
    subject text,
    content text NOT NULL,
    state text NOT NULL CHECK (state IN ('queued', 'delivered', 'failed', 'dropped')),
    due int8 NOT NULL,
    lease text,
    attempts int8 NOT NULL,
    held int8 NOT NULL,
    ended int8,
    PRIMARY KEY (tenant, endpoint, event),
    FOREIGN KEY (tenant, endpoint) REFERENCES nightporter_ledger.endpoints ON DELETE CASCADE
);

CREATE INDEX deliveries_due ON nightporter_ledger.deliveries (tenant, endpoint, due)
    WHERE state = 'queued';
CREATE INDEX deliveries_ended ON nightporter_ledger.deliveries (tenant, ended)
    WHERE ended IS NOT NULL;

-- The log. The outcome is `running` until the sender knows better.
CREATE TABLE nightporter_ledger.attempts (
    tenant text NOT NULL,
    endpoint text NOT NULL,
    event text NOT NULL,
    number int8 NOT NULL,
    at int8 NOT NULL,
    duration int8,
    outcome text NOT NULL,
    status int8,
    detail text,
    answer text,
    PRIMARY KEY (tenant, endpoint, event, number),
    FOREIGN KEY (tenant, endpoint, event) REFERENCES nightporter_ledger.deliveries
        ON DELETE CASCADE
);

CREATE INDEX attempts_by_time ON nightporter_ledger.attempts (tenant, endpoint, at, event, number);

-- The first position of the record that has not been looked at for events.
CREATE TABLE nightporter_ledger.event_cursors (
    tenant text PRIMARY KEY,
    position int8 NOT NULL
);
