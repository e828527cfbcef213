-- What processes have counted of late that only their sum makes an alert, each until it is
-- written anew.
CREATE TABLE alert_counts (
    tenant TEXT NOT NULL,
    writer INTEGER NOT NULL,
    subject_kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    number INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, writer, subject_kind, subject)
) STRICT;
