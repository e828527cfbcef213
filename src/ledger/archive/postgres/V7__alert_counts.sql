-- What processes have counted of late that only their sum makes an alert, each until it is
-- written anew.
CREATE TABLE nightporter_ledger.alert_counts (
    tenant text NOT NULL,
    writer int8 NOT NULL,
    subject_kind text NOT NULL,
    subject text NOT NULL,
    number int8 NOT NULL,
    expires_at int8 NOT NULL,
    PRIMARY KEY (tenant, writer, subject_kind, subject)
);
