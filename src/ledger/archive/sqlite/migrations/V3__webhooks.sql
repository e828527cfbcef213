-- Where messages go. `definition` and `secrets` are JSON, written and read as a whole.
CREATE TABLE endpoints (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('configuration', 'api')),
    definition TEXT NOT NULL,
    secrets TEXT NOT NULL,
    created INTEGER NOT NULL,
    failing_since INTEGER,
    disabled_at INTEGER,
    disabled_reason TEXT,
    PRIMARY KEY (tenant, id)
) STRICT;

-- One event for one endpoint. `lease` is the claim of a sender until `due`.
CREATE TABLE deliveries (
    tenant TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    event TEXT NOT NULL,
    kind TEXT NOT NULL,
    at INTEGER NOT NULL,
    app TEXT,
    subject TEXT,
    content TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'delivered', 'failed', 'dropped')),
    due INTEGER NOT NULL,
    lease TEXT,
    attempts INTEGER NOT NULL,
    held INTEGER NOT NULL,
    ended INTEGER,
    PRIMARY KEY (tenant, endpoint, event),
    FOREIGN KEY (tenant, endpoint) REFERENCES endpoints (tenant, id) ON DELETE CASCADE
) STRICT;

CREATE INDEX deliveries_due ON deliveries (tenant, endpoint, due)
    WHERE state = 'queued';
CREATE INDEX deliveries_ended ON deliveries (tenant, ended)
    WHERE ended IS NOT NULL;

-- The log. The outcome is `running` until the sender knows better.
CREATE TABLE attempts (
    tenant TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    event TEXT NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    duration INTEGER,
    outcome TEXT NOT NULL,
    status INTEGER,
    detail TEXT,
    answer TEXT,
    PRIMARY KEY (tenant, endpoint, event, number),
    FOREIGN KEY (tenant, endpoint, event) REFERENCES deliveries (tenant, endpoint, event)
        ON DELETE CASCADE
) STRICT;

CREATE INDEX attempts_by_time ON attempts (tenant, endpoint, at, event, number);

-- The first position of the record that has not been looked at for events.
CREATE TABLE event_cursors (
    tenant TEXT NOT NULL PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT;
